//! The wire of Fumehood: package `fumehood.v1`.
//!
//! The sources are `proto/fumehood/v1/*.proto`; their comments are the documentation of the API. [`v1`] is generated
//! from them and checked in, so that building needs no `protoc`: after a change to a `.proto` file run
//! `cargo run -p fumehood-proto --example generate`.
//!
//! [`convert`] holds conversions of leaves (durations, timestamps, names of signals and errors). Conversions of whole
//! messages are absent on purpose: they belong to those who give the messages a meaning. [`resend`] is what both ends need to repeat a
//! request that nobody heard.

pub mod convert;
pub mod resend;

/// The generated messages, clients and servers of package `fumehood.v1`.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms, rustdoc::all, unused_qualifications)]
#[rustfmt::skip]
pub mod v1 {
    include!("gen/fumehood.v1.rs");
}

/// The encoded `FileDescriptorSet` of the package and what it imports, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
