fn main() -> std::process::ExitCode {
    fumehood::main()
}
