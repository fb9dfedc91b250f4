//! What runs in the sandboxes where a shell is too slow or cannot.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::unistd::{ForkResult, fork, setsid};

/// The first argument of a probe.
pub const FLAG: &str = "--probe";

pub fn run(name: &str, arguments: &[String]) -> ! {
    match name {
        "chain" => chain(),
        "bomb" => bomb(),
        "burn" => burn(arguments[0].parse().expect("milliseconds")),
        "serve" => serve(&arguments[0]),
        "ask" => ask(&arguments[0]),
        "fill" => fill(),
        other => panic!("no probe {other}"),
    }
    std::process::exit(0)
}

fn forked() -> bool {
    // SAFETY: a probe has one thread.
    matches!(unsafe { fork() }, Ok(ForkResult::Child))
}

/// One process after the other, each in a session of its own: its number changes all the time.
fn chain() {
    println!("chain");
    loop {
        if forked() {
            let _ = setsid();
        } else {
            std::process::exit(0);
        }
    }
}

/// As many processes as there may be, all of which try to become more.
fn bomb() {
    println!("bomb");
    loop {
        if forked() {
            let _ = setsid();
        }
    }
}

fn burn(milliseconds: u64) {
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < u128::from(milliseconds) {
        std::hint::spin_loop();
    }
    println!("burnt");
}

fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("listen");
    println!("listening");
    for stream in listener.incoming() {
        let _ = stream.expect("a connection").write_all(b"served");
    }
}

fn ask(address: &str) {
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.read_to_string(&mut answer).expect("an answer");
    println!("{answer}");
}

/// Takes memory without end.
fn fill() {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1u8; 16 << 20]));
    }
}
