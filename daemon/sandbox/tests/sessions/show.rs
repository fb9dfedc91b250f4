//! What is told of a session.

use std::process::Command;
use std::time::Instant;

use fumehood_sandbox::description::{Listening, Protocol};

use super::lab::{Lab, command, probe, shell, wait_until};

pub fn a_session_is_described(lab: &Lab) {
    let mut session = lab.session();
    let mut server = session.start(&probe("serve", &["127.0.0.1:3000"]));
    let pid = server.started();
    server.wait_for("listening");
    let left = session.start(&shell("cd /tmp; head -c 5000 /dev/zero > big; : > small; mkdir dir; ln -s big link; exec -a name sleep 1000 & echo $!"));
    let left_number = left.number;
    let left = left.leave();
    let background: i32 = left.text.trim().parse().expect("a pid");
    wait_until("it was executed", || {
        let found = session.describe().processes;
        found
            .iter()
            .any(|process| process.pid == background && process.name == b"sleep")
    });
    let found = session.describe();
    let [first, second] = found.processes.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((found.process_count, first.pid, second.pid), (2, pid, background));
    assert_eq!((first.run, first.background), (Some(server.number), false));
    assert_eq!((second.run, second.background), (Some(left_number), true));
    assert_eq!(first.command_line, b"/probe\0--probe\0serve\x00127.0.0.1:3000\0");
    assert_eq!(
        (second.command_line.as_slice(), second.state),
        (&b"name\x001000\0"[..], 'S')
    );
    assert!(first.memory_bytes > 0 && found.memory_bytes > 0);
    assert!(second.age_us < 60_000_000, "{second:?}");
    let address = "127.0.0.1:3000".parse().expect("an address");
    let listening = Listening {
        protocol: Protocol::Tcp,
        address,
        pid,
    };
    assert_eq!(found.listening, [listening]);
    let files: Vec<_> = found
        .temporary_files
        .iter()
        .map(|file| {
            (
                std::str::from_utf8(&file.path).expect("text"),
                file.size_bytes,
                file.directory,
            )
        })
        .collect();
    let expected = [
        ("/tmp/big", 5000, false),
        ("/tmp/link", 3, false),
        ("/tmp/dir", 0, true),
        ("/tmp/small", 0, false),
    ];
    assert_eq!((files.as_slice(), found.temporary_file_count), (&expected[..], 4));
    server.kill();
    assert_eq!(session.describe().listening, []);
    session.close();
}

pub fn an_empty_session_is_described(lab: &Lab) {
    let mut session = lab.session();
    let found = session.describe();
    assert_eq!(
        (found.process_count, found.processes.len(), found.listening.len()),
        (0, 0, 0)
    );
    assert_eq!((found.temporary_files.len(), found.temporary_file_count), (0, 0));
    session.close();
}

/// Not a promise but a figure; the bound only catches what is out of all proportion.
pub fn a_run_costs_little_more_than_a_fork(lab: &Lab) {
    let session = lab.session();
    let median = |act: &dyn Fn()| {
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let begun = Instant::now();
                act();
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let bare = median(&|| assert!(Command::new("/bin/true").status().expect("a process").success()));
    let run = median(&|| assert!(session.run(&command(&["/bin/true"])).status.is_some()));
    println!("p50 of /bin/true: {run:?} in a session, {bare:?} by fork and exec");
    session.close();
}
