//! The operations by themselves, on a worker that is a thread and not confined. That it is confined is what the end-to-end tests show.

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread::JoinHandle;

use super::*;

/// A worker, and the socket that it serves.
struct Served {
    socket: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new() -> Served {
        let (ours, theirs) = wire::pair().unwrap();
        Served {
            socket: Some(ours),
            thread: Some(std::thread::spawn(move || serve(&theirs))),
        }
    }

    fn send(&self, operation: Operation, pipe: Option<&OwnedFd>) {
        let fds: Vec<_> = pipe.iter().map(|pipe| pipe.as_fd()).collect();
        wire::send(self.socket.as_ref().unwrap().as_fd(), &operation, &fds).unwrap();
    }

    fn reply(&self) -> Reply {
        wire::receive::<Reply>(self.socket.as_ref().unwrap().as_fd())
            .unwrap()
            .unwrap()
            .0
    }

    fn ask(&self, operation: Operation) -> Reply {
        self.send(operation, None);
        self.reply()
    }

    fn write(&self, write: Write, contents: &[u8]) -> Reply {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        self.send(Operation::Write(write), Some(&reader));
        drop(reader);
        // One that fails early reads nothing.
        let _ = fs::File::from(writer).write_all(contents);
        let bytes = contents.len() as u64;
        self.send(Operation::Commit { bytes }, None);
        self.reply()
    }

    fn end(&mut self) {
        self.socket = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn replace(path: &Path) -> Write {
    Write {
        path: bytes(path),
        mode: WriteMode::Replace,
        permissions: 0o644,
        parents: false,
        sync: false,
    }
}

fn errno(reply: &Reply) -> (&str, i32) {
    match reply {
        Reply::Failed(failure) => (&failure.operation, failure.errno),
        other => panic!("{other:?}"),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn pages_hold_every_name_once_in_order_and_end_at_their_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    for number in 0..500 {
        fs::write(directory.path().join(format!("{number:03}-{long}")), "").unwrap();
    }
    let served = Served::new();
    let page = |after: Vec<u8>, limit: u32| {
        let path = bytes(directory.path());
        served.send(Operation::List { path, after, limit }, None);
        let mut entries = Vec::new();
        loop {
            match served.reply() {
                Reply::Entries(more) => entries.extend(more.into_iter().map(|info| info.name)),
                Reply::Page { more } => return (entries, more),
                Reply::Working => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let mut all = Vec::new();
    loop {
        let (entries, more) = page(all.last().cloned().unwrap_or_default(), 7);
        assert!(entries.len() <= 7);
        all.extend(entries);
        if !more {
            break;
        }
        // What goes or comes before the page changes nothing behind it.
        let _ = fs::remove_file(directory.path().join(std::ffi::OsStr::from_bytes(&all[0])));
    }
    assert_eq!(all.len(), 500);
    assert!(all.is_sorted());
    let (entries, more) = page(Vec::new(), 10_000);
    assert!(!more && entries.len() < 500, "{}", entries.len());
    // Links that lead far fill a page before its number does.
    let target = "t".repeat(4000);
    for number in 0..300 {
        std::os::unix::fs::symlink(&target, directory.path().join(format!("~{number:03}"))).unwrap();
    }
    let (entries, more) = page(b"~".to_vec(), 10_000);
    assert!(more && (261..=263).contains(&entries.len()), "{}", entries.len());
    let (rest, more) = page(entries.last().unwrap().clone(), 10_000);
    assert!(!more);
    assert_eq!(entries.len() + rest.len(), 300);
}

#[test]
fn a_file_is_replaced_whole_with_its_bits_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let mut served = Served::new();
    let reply = served.write(replace(&directory.path().join("link")), b"new");
    let Reply::Written {
        info,
        created: false,
        bytes: 3,
    } = reply
    else {
        panic!("{reply:?}")
    };
    assert_eq!((info.name.as_slice(), info.size, info.mode), (&b"file"[..], 3, 0o751));
    assert_ne!(fs::metadata(&file).unwrap().ino(), inode);
    assert_eq!(fs::read(&file).unwrap(), b"new");
    // Contents that are not all are not written.
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    served.send(Operation::Write(replace(&file)), Some(&reader));
    drop(reader);
    fs::File::from(writer).write_all(b"half").unwrap();
    served.end();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(names(directory.path()), ["file", "link"]);
}

#[test]
fn what_is_no_file_is_neither_read_nor_replaced_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(at("directory")).unwrap();
    let served = Served::new();
    for (name, expected) in [
        ("fifo", libc::EOPNOTSUPP),
        ("directory", libc::EISDIR),
        ("none/x", libc::ENOENT),
        ("fifo/x", libc::ENOTDIR),
    ] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let path = bytes(&at(name));
        served.send(
            Operation::Read {
                path,
                offset: 0,
                length: None,
            },
            Some(&writer),
        );
        assert_eq!(errno(&served.reply()), ("open", expected), "{name}");
        drop((reader, writer));
        for mode in [WriteMode::Replace, WriteMode::Append] {
            let served = Served::new();
            let write = Write {
                mode,
                ..replace(&at(name))
            };
            assert_eq!(errno(&served.write(write, b"x")), ("open", expected), "{name}");
        }
    }
    let served = Served::new();
    let write = Write {
        mode: WriteMode::Create,
        ..replace(&at("fifo"))
    };
    assert_eq!(errno(&served.write(write, b"x")), ("open", libc::EEXIST));
}

#[test]
fn a_part_of_a_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let contents: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    fs::write(&file, &contents).unwrap();
    let served = Served::new();
    for (offset, length) in [
        (0, None),
        (299_999, None),
        (300_000, None),
        (5, Some(200_000)),
        (1 << 40, Some(1)),
        (7, Some(0)),
    ] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let path = bytes(&file);
        served.send(Operation::Read { path, offset, length }, Some(&writer));
        drop(writer);
        let Reply::Info(info) = served.reply() else { panic!() };
        assert_eq!(info.size, 300_000);
        let mut read = Vec::new();
        fs::File::from(reader).read_to_end(&mut read).unwrap();
        assert_eq!(served.reply(), Reply::Done);
        let from = contents.len().min(offset as usize);
        let to = contents
            .len()
            .min(from + length.unwrap_or(u64::MAX).min(1 << 20) as usize);
        assert_eq!(read, contents[from..to]);
    }
}

#[test]
fn a_deep_and_wide_tree_is_removed_and_what_it_links_to_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::write(&outside, "x").unwrap();
    let top = directory.path().join("top");
    fs::create_dir(&top).unwrap();
    // Deeper than descriptors are held, and longer than a path may be.
    let mut level = rustix::fs::open(&top, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    let name = "d".repeat(100);
    for _ in 0..60 {
        rustix::fs::mkdirat(&level, &*name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        level = rustix::fs::openat(&level, &*name, flags, rustix::fs::Mode::empty()).unwrap();
        rustix::fs::symlinkat(&outside, &level, "link").unwrap();
    }
    for number in 0..1000 {
        fs::write(top.join(number.to_string()), "").unwrap();
    }
    let served = Served::new();
    let path = bytes(&top);
    let reply = served.ask(Operation::Remove {
        path: path.clone(),
        recursive: false,
    });
    assert_eq!(errno(&reply), ("remove", libc::ENOTEMPTY));
    let reply = served.ask(Operation::Remove { path, recursive: true });
    assert_eq!(
        reply,
        Reply::Removed {
            count: 1 + 60 * 2 + 1000
        }
    );
    assert_eq!(names(directory.path()), ["outside"]);
}

#[test]
fn directories_are_made_with_those_above_them() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::new();
    let make = |name: &str, mode, parents| {
        let path = bytes(&directory.path().join(name));
        served.ask(Operation::MakeDirectory { path, mode, parents })
    };
    assert_eq!(errno(&make("a/b/c", 0o700, false)), ("mkdir", libc::ENOENT));
    let Reply::Made { info, created: true } = make("a/b/c/", 0o700, true) else {
        panic!()
    };
    assert_eq!((info.name.as_slice(), info.kind), (&b"c"[..], Kind::Directory));
    assert!(matches!(make("a/b/c", 0o700, true), Reply::Made { created: false, .. }));
    assert_eq!(errno(&make("a/b/c", 0o700, false)), ("mkdir", libc::EEXIST));
    fs::write(directory.path().join("a/file"), "").unwrap();
    assert_eq!(errno(&make("a/file", 0o700, true)), ("mkdir", libc::EEXIST));
    assert_eq!(errno(&make("a/file/x/y", 0o700, true)), ("open", libc::ENOTDIR));
}

#[test]
fn names_are_changed_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["a", "b"] {
        fs::write(at(name), name).unwrap();
    }
    let served = Served::new();
    let rename = |from: &str, to: &str, keep_existing| {
        let (from, to) = (bytes(&at(from)), bytes(&at(to)));
        served.ask(Operation::Rename {
            from,
            to,
            keep_existing,
        })
    };
    let Reply::Failed(failure) = rename("a", "b", true) else {
        panic!()
    };
    assert_eq!((failure.errno, failure.path), (libc::EEXIST, bytes(&at("b"))));
    assert_eq!(rename("a", "b", false), Reply::Done);
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    let Reply::Failed(failure) = rename("a", "c", false) else {
        panic!()
    };
    assert_eq!((failure.errno, failure.path), (libc::ENOENT, bytes(&at("a"))));
}

#[test]
fn what_proc_holds_of_the_worker_itself_is_refused_by_whatever_path() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| bytes(&directory.path().join(name));
    let own = format!("/proc/{}", std::process::id());
    std::os::unix::fs::symlink("/proc/self/mem", directory.path().join("memory")).unwrap();
    std::os::unix::fs::symlink(&own, directory.path().join("all")).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", directory.path().join("program")).unwrap();
    let served = Served::new();
    let refused = |reply: Reply, rule: bool| match reply {
        Reply::Failed(failure) => {
            assert_eq!(failure.errno, libc::EACCES, "{failure:?}");
            assert_eq!(!failure.rule.is_empty(), rule, "{failure:?}");
        }
        other => panic!("{other:?}"),
    };
    let read = |path: Vec<u8>| {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        served.send(
            Operation::Read {
                path,
                offset: 0,
                length: Some(1),
            },
            Some(&writer),
        );
        drop(writer);
        let reply = served.reply();
        drop(reader);
        reply
    };
    for path in [
        b"/proc/self/maps".to_vec(),
        b"/proc/thread-self/mem".to_vec(),
        b"/proc/../proc/self/task/../environ".to_vec(),
        format!("{own}/cmdline").into_bytes(),
        at("memory"),
        at("all/stat"),
    ] {
        refused(read(path.clone()), true);
        let follow = true;
        refused(served.ask(Operation::Stat { path, follow }), true);
    }
    refused(read(at("program")), false);
    for path in [b"/proc/self/".to_vec(), b"/proc/self/task".to_vec(), at("all")] {
        let (after, limit) = (Vec::new(), 10);
        refused(served.ask(Operation::List { path, after, limit }), true);
    }
    let path = b"/proc/self/root".to_vec();
    refused(served.ask(Operation::Stat { path, follow: false }), true);
    for mode in [WriteMode::Replace, WriteMode::Append, WriteMode::Create] {
        let path = b"/proc/self/mem".to_vec();
        let write = Write {
            path,
            mode,
            ..replace(Path::new(""))
        };
        refused(Served::new().write(write, b"x"), true);
    }
    // What is nobody's own is there.
    let stat = |path: &[u8]| {
        served.ask(Operation::Stat {
            path: path.to_vec(),
            follow: true,
        })
    };
    assert!(matches!(stat(b"/proc/meminfo"), Reply::Info(_)));
    assert!(matches!(stat(b"/proc"), Reply::Info(_)));
}

#[test]
fn what_is_no_regular_file_is_said_to_be_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, found) in [
        (socket.as_path(), "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        match Served::new().write(replace(path), b"x") {
            Reply::Failed(failure) => assert_eq!((failure.errno, &*failure.found), (libc::EOPNOTSUPP, found)),
            other => panic!("{other:?}"),
        }
    }
}
