//! The program itself, so that cargo builds it for the tests of this package and tells them where it is.

fn main() -> std::process::ExitCode {
    fumehood::main()
}
