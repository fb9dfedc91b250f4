use super::*;

fn about<M: Message>(path: &str, message: &M) -> Option<About> {
    About::of(&format!("/fumehood.v1.{path}"), &message.encode_to_vec())
}

fn run(id: &str) -> Option<About> {
    Some(About::Run(id.to_owned()))
}

fn session(id: &str) -> Option<About> {
    Some(About::Session(id.to_owned()))
}

#[test]
fn what_a_call_is_about_is_in_its_first_message() {
    let run_id = "r".to_owned();
    let attach = v1::AttachRequest {
        message: Some(v1::attach_request::Message::Attach(v1::AttachStart {
            run_id: run_id.clone(),
            ..Default::default()
        })),
    };
    assert_eq!(about("Runs/Attach", &attach), run("r"));
    assert_eq!(about("Runs/Get", &v1::GetRequest { run_id: run_id.clone() }), run("r"));
    assert_eq!(
        about("Runs/Release", &v1::ReleaseRequest { run_id: run_id.clone() }),
        run("r")
    );
    let read = v1::ReadRequest {
        run_id: run_id.clone(),
        offset: 7,
        ..Default::default()
    };
    assert_eq!(about("Runs/Read", &read), run("r"));
    let wait = v1::WaitRequest {
        run_id: run_id.clone(),
        ..Default::default()
    };
    assert_eq!(about("Runs/Wait", &wait), run("r"));
    let observed = v1::ObservationsRequest { run_id };
    assert_eq!(about("Learning/Observations", &observed), run("r"));
    let resolve = v1::ResolveApprovalRequest {
        approval_id: "q".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        about("Approvals/Resolve", &resolve),
        Some(About::Question("q".to_owned()))
    );
}

#[test]
fn a_start_is_about_its_session_or_else_its_id() {
    let start = |id: &str, session: &str| v1::StartRequest {
        run_id: id.to_owned(),
        spec: Some(v1::RunSpec {
            session: session.to_owned(),
            ..Default::default()
        }),
    };
    assert_eq!(about("Runs/Start", &start("r", "s")), session("s"));
    assert_eq!(
        about("Runs/Start", &start("r", "")),
        Some(About::NewRun("r".to_owned()))
    );
    // Nobody can have begun what has no id.
    assert_eq!(about("Runs/Start", &start("", "")), None);
    let first = |start| v1::RunRequest {
        message: Some(v1::run_request::Message::Start(start)),
    };
    assert_eq!(
        about("Runs/Run", &first(start("r", ""))),
        Some(About::NewRun("r".to_owned()))
    );
    assert_eq!(about("Runs/Run", &first(start("", "s"))), session("s"));
    let create = v1::CreateSessionRequest {
        session_id: "s".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        about("Sessions/Create", &create),
        Some(About::NewSession("s".to_owned()))
    );
}

#[test]
fn files_are_about_the_session_that_they_are_seen_in() {
    let view = |view| Some(v1::FilesView { view: Some(view) });
    let of_session = view(v1::files_view::View::Session("s".to_owned()));
    let stat = v1::StatRequest {
        view: of_session.clone(),
        ..Default::default()
    };
    assert_eq!(about("Files/Stat", &stat), session("s"));
    let write = v1::WriteFileRequest {
        message: Some(v1::write_file_request::Message::Write(v1::WriteFileStart {
            view: of_session,
            ..Default::default()
        })),
    };
    assert_eq!(about("Files/WriteFile", &write), session("s"));
    assert_eq!(about("Files/Stat", &v1::StatRequest::default()), None);
}

#[test]
fn what_is_malformed_or_of_no_known_kind_stays_here() {
    let get = v1::GetRequest { run_id: "r".to_owned() }.encode_to_vec();
    for path in [
        "/fumehood.v1.Runs/Unknown",
        "/fumehood.v1.Runs/List",
        "/other.Runs/Get",
        "Runs/Get",
        "",
        "/",
    ] {
        assert_eq!(About::of(path, &get), None, "{path}");
    }
    for cut in 1..get.len() {
        assert_eq!(About::of("/fumehood.v1.Runs/Get", &get[..cut]), None, "{cut}");
    }
    for junk in [&b"\xff\xff\xff\xff\xff"[..], b"\x0a\x7fshort", b"\x0a\x02\xff\xfe"] {
        for path in [
            "Runs/Get",
            "Runs/Run",
            "Runs/Attach",
            "Sessions/Create",
            "Files/Stat",
            "Approvals/Resolve",
        ] {
            assert_eq!(
                About::of(&format!("/fumehood.v1.{path}"), junk),
                None,
                "{path} {junk:?}"
            );
        }
    }
    // A stream that begins with what is no beginning.
    let stdin = v1::RunRequest {
        message: Some(v1::run_request::Message::Stdin(v1::Stdin::default())),
    };
    assert_eq!(about("Runs/Run", &stdin), None);
}

#[test]
fn the_first_message_ends_where_it_says() {
    let framed = |message: &[u8]| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let get = v1::GetRequest { run_id: "r".to_owned() }.encode_to_vec();
    let two = [framed(&get), framed(b"\xff\xff of another kind")].concat();
    assert_eq!(message_in(&two), Some(&get[..]), "whatever has arrived behind it");
    assert_eq!(message_in(&framed(b"")), Some(&b""[..]));
    for cut in 0..PREFIX_BYTES + get.len() {
        assert_eq!(message_in(&two[..cut]), None, "{cut}");
    }
    let compressed = [&[1][..], &two[1..]].concat();
    assert_eq!(message_in(&compressed), None);
}

#[test]
fn who_asks_is_believed_only_where_it_is_said() {
    let peer = Peer {
        identity: crate::peer::Identity::Certificate {
            name: "builder".to_owned(),
        },
        allowed: true,
    };
    let said = |bytes: &[u8], claim| {
        let mut request = Request::new(());
        request
            .metadata_mut()
            .insert_bin(PEER, MetadataValue::from_bytes(bytes));
        from_successor(claiming(request, claim))
    };
    let whole = postcard::to_stdvec(&peer).unwrap();
    for claim in [false, true] {
        let request = said(&whole, claim).unwrap();
        assert_eq!(
            request.extensions().get::<Peer>().unwrap().to_string(),
            peer.to_string()
        );
        assert_eq!(request.extensions().get::<Successors>().unwrap().claim, claim);
    }
    assert_eq!(
        from_successor(Request::new(())).unwrap_err().code(),
        Code::Unauthenticated
    );
    for cut in 0..whole.len() {
        assert_eq!(
            said(&whole[..cut], false).unwrap_err().code(),
            Code::Unauthenticated,
            "{cut}"
        );
    }
}
