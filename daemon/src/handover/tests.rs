use std::io::Read as _;
use std::thread::JoinHandle;

use super::*;

/// A socket that a daemon serves, as far as hand-overs go.
struct Place {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        Place { directory, listener }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn accept(listener: &UnixListener) -> UnixStream {
        let mut stream = listener.accept().unwrap().0;
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).unwrap();
        assert_eq!(&preface, PREFACE);
        stream
    }

    /// Has an old daemon answer one that asks.
    fn offers(&self, handed: Handed, audit: Option<File>) -> JoinHandle<Result<Option<Successor>, HandOverError>> {
        let listener = self.listener.try_clone().unwrap();
        std::thread::spawn(move || handed.offer(Place::accept(&listener), audit))
    }

    /// Answers with what no old daemon says.
    fn answers(&self, answer: Answer, descriptors: usize) -> JoinHandle<()> {
        let listener = self.listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let stream = Place::accept(&listener);
            let (_, own) = receive_packet::<Hello>(stream.as_fd()).unwrap().unwrap();
            let some = vec![listener.as_fd(); descriptors];
            send_packet(own[0].as_fd(), &answer, &some).unwrap();
        })
    }

    fn handed(&self, listeners: u32) -> Handed {
        let copy = |_| OwnedFd::from(self.listener.try_clone().unwrap());
        Handed {
            offer: Offer {
                instance: "old".to_owned(),
                unix: listeners,
                ..Offer::default()
            },
            arguments: (vec![b"--idle-exit".to_vec(), b"7".to_vec()], b"/somewhere".to_vec()),
            descriptors: (0..listeners).map(copy).collect(),
            supervised: false,
        }
    }
}

fn is_closed(socket: &OwnedFd) -> bool {
    matches!(receive_packet::<Said>(socket.as_fd()), Ok(None))
}

#[test]
fn everything_is_offered_taken_and_told_to_its_end() {
    let place = Place::new();
    let mut handed = place.handed(11);
    let log = tempfile::tempfile().unwrap();
    handed.offer.audit = Some(b"/var/lib/log".to_vec());
    let old = place.offers(handed, Some(log));
    let there = TakeOver::ask(&place.socket()).unwrap();
    // More than one message holds.
    assert_eq!(
        (there.unix.len(), there.audit.is_some(), there.lock.is_some()),
        (11, true, false)
    );
    assert_eq!(there.offer.instance, "old");

    let taking = std::thread::spawn(move || {
        let channel = there.control.take(false, "new", true).unwrap();
        (there.control, channel)
    });
    let successor = old.join().unwrap().unwrap().expect("a successor");
    assert_eq!(
        (successor.finish, successor.tcp, successor.instance.as_str()),
        (false, true, "new")
    );
    let (mut own, theirs) = UnixStream::pair().unwrap();
    successor.taken(Some(theirs.as_fd())).unwrap();
    drop(theirs);
    let (control, channel) = taking.join().unwrap();
    drop(channel.expect("a channel"));
    assert_eq!(own.read(&mut [0]).unwrap(), 0, "it was the other end of this one");

    let mut fate = successor.fate().unwrap();
    control.passed();
    assert_eq!(fate(), Fate::Passed);
    control.give_up();
    assert_eq!(fate(), Fate::GivenUp);
    successor.ended();
    assert!(control.ended());
    drop(control);
    assert_eq!(fate(), Fate::Died);
}

#[test]
fn whoever_only_asks_how_it_was_started_gets_nothing_else() {
    let place = Place::new();
    let old = place.offers(place.handed(1), None);
    let (arguments, directory) = TakeOver::arguments(&place.socket()).unwrap();
    assert_eq!(arguments, ["--idle-exit", "7"]);
    assert_eq!(directory, Path::new("/somewhere"));
    assert!(old.join().unwrap().unwrap().is_none());

    let mut long = place.handed(1);
    long.arguments.0 = vec![vec![b'x'; 100_000]];
    let old = place.offers(long, None);
    let error = TakeOver::arguments(&place.socket()).unwrap_err().to_string();
    assert!(error.contains("too long"), "{error}");
    assert!(old.join().unwrap().unwrap().is_none());
}

#[test]
fn a_new_daemon_that_fails_before_it_takes_changes_nothing() {
    let place = Place::new();
    let old = place.offers(place.handed(1), None);
    drop(TakeOver::ask(&place.socket()).unwrap());
    assert!(old.join().unwrap().unwrap().is_none());
}

#[test]
fn an_old_daemon_that_breaks_off_hands_nothing_over() {
    let place = Place::new();
    let old = place.offers(place.handed(1), None);
    let there = TakeOver::ask(&place.socket()).unwrap();
    let taking = std::thread::spawn(move || there.control.take(false, "new", true).map(|channel| channel.is_some()));
    drop(old.join().unwrap().unwrap());
    assert!(matches!(taking.join().unwrap(), Err(HandOverError::Silent)));
    // One that was to finish, and died, has nothing any more.
    let old = place.offers(place.handed(1), None);
    let there = TakeOver::ask(&place.socket()).unwrap();
    let taking = std::thread::spawn(move || there.control.take(true, "new", true).map(|channel| channel.is_some()));
    drop(old.join().unwrap().unwrap());
    assert!(!taking.join().unwrap().unwrap());
}

#[test]
fn what_cannot_be_handed_over_is_refused_with_what_to_do() {
    let place = Place::new();
    let refusal = |change: fn(&mut Handed)| {
        let mut handed = place.handed(1);
        change(&mut handed);
        let old = place.offers(handed, None);
        let error = TakeOver::ask(&place.socket()).unwrap_err().to_string();
        assert!(old.join().unwrap().unwrap().is_none());
        error
    };
    let error = refusal(|handed| handed.offer.predecessors = MAX_PREDECESSORS);
    assert!(error.contains("8 earlier daemons") && error.contains("wait"), "{error}");
    let error = refusal(|handed| handed.offer.unix = MAX_LISTENERS as u32 + 1);
    assert!(error.contains("65 listening sockets"), "{error}");
    let error = refusal(|handed| handed.supervised = true);
    assert!(error.contains("systemctl --user reload"), "{error}");

    let old = place.offers(place.handed(1), None);
    let mut stream = UnixStream::connect(place.socket()).unwrap();
    stream.write_all(PREFACE).unwrap();
    let (own, theirs) = packet_pair().unwrap();
    let hello = Hello {
        form: FORM + 1,
        asks: Asks::Everything,
        supervised: false,
    };
    send_packet(stream.as_fd(), &hello, &[theirs.as_fd()]).unwrap();
    let (answer, _) = receive_packet::<Answer>(own.as_fd()).unwrap().unwrap();
    assert!(matches!(answer, Answer::Refused(why) if why.contains("another version")));
    assert!(old.join().unwrap().unwrap().is_none());
}

#[test]
fn a_new_daemon_that_does_not_keep_to_the_form_gets_nothing() {
    let place = Place::new();
    for (said, descriptors) in [
        (&b""[..], 0),
        (b"\xff\xff\xff\xff\xff\xff\xff", 1),
        (b"\x01", 1),
        (b"\x01\x07", 1),
        (b"\x01\x01", 0),
    ] {
        let old = place.offers(place.handed(1), None);
        let mut stream = UnixStream::connect(place.socket()).unwrap();
        stream.write_all(PREFACE).unwrap();
        let (own, theirs) = packet_pair().unwrap();
        if !said.is_empty() {
            let some: Vec<_> = [theirs.as_fd()].into_iter().take(descriptors).collect();
            send_packet(stream.as_fd(), &Raw(said), &some).unwrap();
        }
        drop((stream, theirs));
        assert!(!matches!(old.join().unwrap(), Ok(Some(_))), "{said:?}");
        assert!(is_closed(&own), "{said:?}");
    }
    // It takes what it was not offered: nothing but `Take` is understood.
    let old = place.offers(place.handed(1), None);
    let there = TakeOver::ask(&place.socket()).unwrap();
    there.control.passed();
    assert!(matches!(old.join().unwrap(), Err(HandOverError::Incomplete)));
}

/// Bytes as they are: a tuple adds nothing to what is in it.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple as _;
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

#[test]
fn an_offer_that_is_not_what_it_says_is_not_taken() {
    let place = Place::new();
    let offer = |unix, lock: bool| {
        Answer::Offer(Box::new(Offer {
            unix,
            own_socket: lock.then_some((1, 2)),
            ..Offer::default()
        }))
    };
    let arguments = Answer::Arguments {
        arguments: Vec::new(),
        directory: Vec::new(),
    };
    let wrong = [
        (offer(1, false), 0),
        (offer(1, true), 1),
        (offer(1, false), 2),
        (offer(0, false), 0),
        (offer(1_000_000, false), 8),
        (Answer::More, 1),
        (arguments, 0),
    ];
    for (answer, descriptors) in wrong {
        let shown = format!("{answer:?}");
        let old = place.answers(answer, descriptors);
        let error = TakeOver::ask(&place.socket()).unwrap_err();
        assert!(matches!(error, HandOverError::Incomplete), "{shown}: {error}");
        old.join().unwrap();
    }
    drop(place.listener);
    let error = TakeOver::ask(&place.directory.path().join("s")).unwrap_err();
    assert!(matches!(error, HandOverError::Nobody { .. }), "{error}");
}

#[test]
fn places_that_moved_are_named() {
    let places = Places {
        socket: b"/run/s".to_vec(),
        audit: b"/var/a".to_vec(),
        output: b"/var/o".to_vec(),
    };
    assert!(places.same_as(&places.clone()).is_ok());
    let moved = Places {
        audit: b"/var/b".to_vec(),
        ..places.clone()
    };
    let error = places.same_as(&moved).unwrap_err().to_string();
    for part in ["`audit.path`", "/var/a", "/var/b", "change it back"] {
        assert!(error.contains(part), "{error}");
    }
}
