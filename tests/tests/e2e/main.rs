//! The promises of Fumehood, kept or broken through its real binary: each test starts a daemon of its own, uses it as its users
//! do, and proves at the end that nothing of it is left.
//!
//! Tests run as whoever runs them. Root's also play an ordinary user where the promise is made to both. What needs a feature
//! of the kernel fails where it is missing, unless the environment declares it absent:
//!
//! | variable | declares |
//! |---|---|
//! | `FUMEHOOD_TEST_WITHOUT_CGROUPS=1` | root cannot make cgroups here |
//! | `FUMEHOOD_TEST_WITHOUT_PYTHON=1` | there is no Python with grpcio, and none can be had |
//! | `FUMEHOOD_TEST_PYTHON=/path/to/python` | a Python with grpcio, grpcio-reflection and protobuf |

mod absence;
mod admission;
mod approvals;
mod audit;
mod autostart;
mod bombs;
mod cancels;
mod commands;
mod crash;
mod deeds;
mod denials;
mod endings;
mod files;
mod floods;
mod grants;
mod guard;
mod guard_names;
mod handover;
mod idempotency;
mod identity;
mod isolation;
mod journeys;
mod layering;
mod learn;
mod mtls;
mod network;
mod output;
mod policy_tools;
mod python;
mod reload;
mod requests;
mod restart;
mod run;
mod sessions;
mod signals;
mod soak;
mod terminals;
mod trust;
mod walls;
mod wire;
mod workloads;

use fumehood_tests::{Builder, House, Who, is_root};

/// A daemon to be, of the program under test.
fn builder() -> Builder {
    House::builder(env!("CARGO_BIN_EXE_fumehood-under-test"))
}

/// A daemon of whoever runs the tests.
fn house() -> House {
    builder().build()
}

/// The same promise for whoever runs the tests and for an ordinary user.
fn for_both(check: impl Fn(&House)) {
    let house = house();
    check(&house);
    house.end();
    if is_root() {
        println!("and as an ordinary user:");
        let house = builder().who(Who::Ordinary).build();
        check(&house);
        house.end();
    }
}
