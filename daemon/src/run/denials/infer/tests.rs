use super::*;

/// A view as `lower::reach` would tell it: `/usr` and `/etc` read-only, `/home/ada/.ssh` hidden, `/var/lib/fumehood` the daemon's,
/// `/home/ada` open, nothing else there.
fn reach(path: &Path) -> Reach {
    let remedy = "filesystem.write with this path".to_owned();
    let own = ["/usr", "/etc", "/bin", "/opt"];
    if path.starts_with("/home/ada/.ssh") {
        let rule = Some("filesystem.hide-in-home: .ssh".to_owned());
        Reach::Hidden { rule }
    } else if path.starts_with("/var/lib/fumehood") {
        Reach::Hidden { rule: None }
    } else if path.starts_with("/home/ada") || path.starts_with("/tmp") || path.starts_with("/dev") {
        Reach::Open
    } else if own.iter().any(|own| path.starts_with(own)) {
        Reach::ReadOnly { remedy }
    } else {
        let remedies = ["filesystem.read with this path".to_owned(), remedy];
        Reach::Absent { remedies }
    }
}

fn told(stderr: &str) -> Vec<String> {
    let word = |denial: &Denial| {
        let subject = String::from_utf8_lossy(denial.subject.bytes()).into_owned();
        format!("{} {subject}", denial.operation.name())
    };
    infer(stderr.as_bytes(), true, Path::new("/etc/project"), reach)
        .iter()
        .map(word)
        .collect()
}

/// As programs write them (coreutils 9, dash, bash 5, Python 3.11, Node 20, npm 10, cargo 1.9x, git 2.39, Go 1.2x, gcc 12, OpenJDK 17).
const MESSAGES: &[(&str, &[&str])] = &[
    // Shells and coreutils
    ("sh: 1: cannot create /usr/x: Read-only file system", &["write /usr/x"]),
    ("bash: line 1: /usr/x: Read-only file system", &["write /usr/x"]),
    ("/bin/sh: 1: cannot create out.txt: Permission denied", &[]),
    ("sh: 1: /data/bin/tool: not found", &["read /data/bin/tool"]),
    ("sh: 1: tool: not found", &[]),
    (
        "touch: cannot touch '/etc/x y': Read-only file system",
        &["write /etc/x y"],
    ),
    ("ls: cannot access '/data': No such file or directory", &["read /data"]),
    (
        "cat: /home/ada/.ssh/id_ed25519: No such file or directory",
        &["read /home/ada/.ssh/id_ed25519"],
    ),
    (
        "ls: cannot open directory '/home/ada/.ssh': Permission denied",
        &["read /home/ada/.ssh"],
    ),
    (
        "mkdir: cannot create directory ‘/srv’: Read-only file system",
        &["write /srv"],
    ),
    (
        "cp: cannot create regular file '/usr/bin/x': Read-only file system",
        &["write /usr/bin/x"],
    ),
    (
        "cat: /var/lib/fumehood/audit.jsonl: No such file or directory",
        &["read /var/lib/fumehood/audit.jsonl"],
    ),
    // By a relative path, in a directory that cannot be written
    (
        "touch: cannot touch 'x y': Read-only file system",
        &["write /etc/project/x y"],
    ),
    (
        "sh: 1: cannot create out.txt: Read-only file system",
        &["write /etc/project/out.txt"],
    ),
    (
        "bash: line 1: ./a/b: Read-only file system",
        &["write /etc/project/a/b"],
    ),
    (
        "OSError: [Errno 30] Read-only file system: 'x'",
        &["write /etc/project/x"],
    ),
    (
        "error: could not lock config file .git/config: Read-only file system",
        &["write /etc/project/.git/config"],
    ),
    ("error: Read-only file system (os error 30)", &[]),
    ("tool: failed to save: Read-only file system", &[]),
    ("touch: cannot touch '../x': Read-only file system", &[]),
    // Hosts as curl names them
    ("curl: (6) Could not resolve host: registry", &["connect registry"]),
    ("curl: (6) Could not resolve host: localhost", &[]),
    (
        "curl: (7) Failed to connect to 192.0.2.1 port 80 after 0 ms: Couldn't connect to server",
        &["connect 192.0.2.1"],
    ),
    (
        "curl: (7) Failed to connect to localhost port 80 after 0 ms: Couldn't connect to server",
        &[],
    ),
    // What the file's own mode refuses, or what is missing on the machine as well
    ("cat: /etc/shadow: Permission denied", &[]),
    ("cat: /usr/nothing: No such file or directory", &[]),
    ("cat: /home/ada/nothing: No such file or directory", &[]),
    ("cat: nothing: No such file or directory", &[]),
    ("bash: /dev/tcp/x: Permission denied", &[]),
    // Python
    (
        "PermissionError: [Errno 13] Permission denied: '/root/x'",
        &["read /root/x"],
    ),
    ("OSError: [Errno 30] Read-only file system: '/usr/x'", &["write /usr/x"]),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/data/a' -> '/data/b'",
        &["read /data/a"],
    ),
    (
        "/usr/bin/python3: can't open file '/data/x.py': [Errno 2] No such file or directory",
        &["read /data/x.py"],
    ),
    (
        "  File \"/usr/lib/python3.11/os.py\", line 225, in makedirs\nOSError: [Errno 30] Read-only file system",
        &[],
    ),
    (
        "ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system: '/usr/lib/python3'",
        &["write /usr/lib/python3"],
    ),
    // Node and npm
    (
        "Error: EROFS: read-only file system, open '/usr/x'\n    at Object.openSync (node:fs:601:3) {\n  path: '/usr/x'",
        &["write /usr/x"],
    ),
    (
        "Error: ENOENT: no such file or directory, open '/data/x.json'",
        &["read /data/x.json"],
    ),
    (
        "npm error code EACCES\nnpm error path /usr/lib/node_modules\nnpm error Error: EACCES: permission denied, mkdir '/usr/lib/node_modules/x'",
        &["write /usr/lib/node_modules/x"],
    ),
    // cargo
    (
        "error: failed to create directory `/opt/cargo/registry`\n\nCaused by:\n  Read-only file system (os error 30)",
        &["write /opt/cargo/registry"],
    ),
    (
        "error: failed to open: /opt/cargo/.package-cache\n\nCaused by:\n  Read-only file system (os error 30)",
        &["write /opt/cargo/.package-cache"],
    ),
    (
        "error: couldn't read `/data/x.rs`: No such file or directory (os error 2)",
        &["read /data/x.rs"],
    ),
    // git
    (
        "error: could not lock config file /etc/gitconfig: Read-only file system",
        &["write /etc/gitconfig"],
    ),
    (
        "fatal: could not create work tree dir '/srv/x': Read-only file system",
        &["write /srv/x"],
    ),
    (
        "fatal: cannot change to '/data/repo': No such file or directory",
        &["read /data/repo"],
    ),
    ("git@github.com: Permission denied (publickey).", &[]),
    // Go
    (
        "go: could not create module cache: mkdir /opt/go/pkg: read-only file system",
        &["write /opt/go/pkg"],
    ),
    ("open /data/x: no such file or directory", &["read /data/x"]),
    // gcc and make
    (
        "/usr/bin/ld: cannot open output file /usr/lib/x: Read-only file system",
        &["write /usr/lib/x"],
    ),
    (
        "cc1: fatal error: /data/x.c: No such file or directory",
        &["read /data/x.c"],
    ),
    (
        "/usr/include/a.h:3:10: fatal error: bar.h: No such file or directory",
        &[],
    ),
    ("make: /data/cc: No such file or directory", &["read /data/cc"]),
    // Java
    (
        "java.io.FileNotFoundException: /usr/x (Read-only file system)",
        &["write /usr/x"],
    ),
    (
        "Exception in thread \"main\" java.nio.file.NoSuchFileException: /data/x",
        &["read /data/x"],
    ),
    (
        "java.nio.file.FileSystemException: /usr/x: Read-only file system",
        &["write /usr/x"],
    ),
    // Hosts
    (
        "curl: (6) Could not resolve host: example.com",
        &["connect example.com"],
    ),
    (
        "fatal: unable to access 'https://github.com/a/b.git/': Could not resolve host: github.com",
        &["connect github.com"],
    ),
    (
        "ssh: Could not resolve hostname github.com: Temporary failure in name resolution",
        &["connect github.com"],
    ),
    (
        "npm error request to https://registry.npmjs.org/x failed, reason: getaddrinfo ENOTFOUND registry.npmjs.org",
        &["connect registry.npmjs.org"],
    ),
    (
        "Error: connect ENETUNREACH 192.0.2.1:443 - Local (0.0.0.0:0)",
        &["connect 192.0.2.1:443"],
    ),
    (
        "dial tcp: lookup proxy.golang.org: no such host",
        &["connect proxy.golang.org"],
    ),
    (
        "dial tcp 192.0.2.1:443: connect: network is unreachable",
        &["connect 192.0.2.1:443"],
    ),
    (
        "java.net.UnknownHostException: repo.maven.apache.org",
        &["connect repo.maven.apache.org"],
    ),
    ("java.net.ConnectException: Network is unreachable", &["connect "]),
    ("OSError: [Errno 101] Network is unreachable", &["connect "]),
    (
        "socket.gaierror: [Errno -3] Temporary failure in name resolution",
        &["connect "],
    ),
    ("ping: 127.0.0.1: Network is unreachable", &[]),
    // Nothing
    ("", &[]),
    ("everything failed", &[]),
    ("see https://example.com/permission denied", &[]),
    ("// permission denied", &[]),
    ("Permission denied: /", &[]),
    ("open /data/../etc/x: no such file or directory", &[]),
];

#[test]
fn real_messages_are_understood() {
    let wrong: Vec<_> = MESSAGES
        .iter()
        .filter(|(message, right)| told(message) != *right)
        .map(|(message, _)| format!("{message}: {:?}", told(message)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_conclusion_says_which_rule_and_what_would_allow_it() {
    let denials = infer(
        b"cat: /home/ada/.ssh/id: No such file or directory\nsh: 1: cannot create /usr/x: Read-only file system\ncat: /var/lib/fumehood/x: No such file or directory",
        true,
        Path::new("/"),
        reach,
    );
    let words: Vec<_> = denials
        .iter()
        .map(|denial| (denial.rule.as_str(), denial.remedy.as_str()))
        .collect();
    assert_eq!(
        words,
        [
            ("filesystem.hide-in-home: .ssh", "filesystem.hide-in-home without .ssh"),
            ("the policy grants it read-only", "filesystem.write with this path"),
            ("it belongs to fumehood itself, which no command reaches", ""),
        ]
    );
    assert!(denials.iter().all(|denial| denial.evidence == Evidence::Inferred));
}

#[test]
fn each_conclusion_is_drawn_once_and_there_are_few() {
    let one = "cat: /data/x: No such file or directory\n".repeat(100);
    assert_eq!(told(&one).len(), 1);
    let many: String = (0..100)
        .map(|n| format!("cat: /data/{n}: No such file or directory\n"))
        .collect();
    assert_eq!(told(&many).len(), MAX_INFERRED);
}

#[test]
fn any_bytes_are_taken() {
    let mut state = 7u64;
    let alphabet = b"/'\"`:\n\xff\xc3\xa9 .aCaused by:\nPermission denied ENOENT enotfound ()";
    for length in 0..600 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                alphabet[(state >> 33) as usize % alphabet.len()]
            })
            .chain(*b"Permission denied")
            .collect();
        assert!(infer(&bytes, true, Path::new("/etc"), reach).len() <= MAX_INFERRED);
    }
    infer(
        "é/‘’Permission denied: ‘/é’ /\u{a0}/x".as_bytes(),
        true,
        Path::new("/"),
        reach,
    );
}

#[test]
fn with_the_machines_network_a_host_that_is_not_reached_is_no_denial() {
    assert!(
        infer(
            b"curl: (6) Could not resolve host: example.com",
            false,
            Path::new("/"),
            reach
        )
        .is_empty()
    );
}
