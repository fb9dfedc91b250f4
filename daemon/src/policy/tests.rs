//! Reading again, and what decides of everything that has a word.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::peer::{Identity, Peer};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            directory: tempfile::tempdir().unwrap(),
        };
        for name in ["system", "user", "work", "state"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, file: &str, text: &str) {
        let name = Path::new(file)
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.');
        fs::write(self.path(file), format!("version = 1\nname = \"{name}\"\n{text}")).unwrap();
    }

    fn load(&self, inline: Inline, rules: Vec<Rule>) -> Result<Policies, StoreError> {
        let sources = Sources {
            system: vec![self.path("system")],
            user: vec![self.path("user")],
            default: "default".to_owned(),
            uid: nix::unistd::geteuid().as_raw(),
        };
        let access = Rules {
            origin: "fumehoodd.toml".to_owned(),
            system: false,
            rules,
        };
        Policies::load(
            sources,
            vec![access],
            inline,
            TrustStore::beside(&self.path("state/audit.jsonl")),
        )
    }

    fn choose(&self, policies: &Policies, reference: Reference<'_>) -> Result<Choice, Refusal> {
        let asking = Asking {
            peer: &peer(),
            labels: &BTreeMap::new(),
            workspace: Some((&self.path("work"), nix::unistd::geteuid().as_raw())),
        };
        policies.choose(asking, reference)
    }

    fn trust(&self, policies: &Policies, file: &str) {
        let examined = policies.examine(&peer(), &self.path(file)).unwrap();
        policies.trust().trust(examined.outside.trusted_now("uid:0")).unwrap();
    }
}

fn peer() -> Peer {
    let uid = nix::unistd::geteuid().as_raw();
    Peer {
        identity: Identity::Unix { uid, gid: 0, pid: None },
        allowed: true,
    }
}

const MORE: &str = "[network]\nmode = \"host-without-isolation\"\n[limits]\nwall = \"1m\"\n\
                    [protections]\nrequired = [\"privileges\"]\n";

/// A request's own policy, as most say it.
fn brings(toml: &[u8]) -> Reference<'_> {
    Reference::Inline(Brought {
        toml,
        origin: "x.toml",
        ..Brought::default()
    })
}

fn mode(choice: &Choice) -> fumehood_policies::NetworkMode {
    choice.policy.network.mode()
}

#[test]
fn reading_again_is_all_or_nothing() {
    let place = Place::new();
    place.write("user/ci.toml", "");
    place.write("user/old.toml", "");
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    let before = policies.current();
    place.write("user/new.toml", "");
    place.write("user/ci.toml", "[limits]\nwall = \"1s\"\n");
    fs::remove_file(place.path("user/old.toml")).unwrap();
    fs::write(
        place.path("user/bad.toml"),
        "version = 1\nname = \"bad\"\ndenied_patths = []\n",
    )
    .unwrap();
    let error = policies.reload().unwrap_err().to_string();
    assert!(error.contains("bad.toml:3:1"), "{error}");
    let same = policies.current();
    assert_eq!(same.names(), before.names());
    assert_eq!(same.get("ci").unwrap().policy, before.get("ci").unwrap().policy);

    fs::remove_file(place.path("user/bad.toml")).unwrap();
    let changes = policies.reload().unwrap();
    assert_eq!(changes.added, ["new"]);
    assert_eq!(changes.removed, ["old"]);
    assert_eq!(changes.changed, ["ci"]);
    assert!(before.get("old").is_some(), "who has the old ones keeps them");
    assert_eq!(policies.reload().unwrap(), Changes::default());
}

#[test]
fn a_projects_file_narrows_until_it_is_trusted_and_again_when_it_changes() {
    let place = Place::new();
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    let plain = place.choose(&policies, Reference::None).unwrap();
    assert_eq!(plain.layers, ["default"]);
    place.write("work/.fumehood.toml", MORE);
    let narrowed = place.choose(&policies, Reference::None).unwrap();
    assert_eq!(narrowed.layers, ["fumehood (.fumehood.toml, untrusted)", "default"]);
    assert_eq!(mode(&narrowed), fumehood_policies::NetworkMode::Loopback);
    assert_eq!(narrowed.policy.limits.wall, Some(std::time::Duration::from_secs(60)));
    let words: Vec<_> = narrowed.not_given.iter().map(|widening| widening.key).collect();
    assert!(
        words.contains(&"network.mode") && words.contains(&"protections.required"),
        "{words:?}"
    );

    place.trust(&policies, "work/.fumehood.toml");
    let trusted = place.choose(&policies, Reference::None).unwrap();
    assert_eq!(trusted.layers, ["fumehood (.fumehood.toml, trusted)"]);
    assert_eq!(mode(&trusted), fumehood_policies::NetworkMode::Host);
    assert!(trusted.not_given.is_empty());

    place.write("work/.fumehood.toml", &format!("{MORE}# changed\n"));
    let again = place.choose(&policies, Reference::None).unwrap();
    assert_eq!(again.policy.digest, narrowed.policy.digest);
    let examined = policies.examine(&peer(), &place.path("work/.fumehood.toml")).unwrap();
    assert!(examined.changed && !examined.trusted);
    // Whoever names a policy gets that one.
    assert_eq!(
        place.choose(&policies, Reference::Name("locked")).unwrap().layers,
        ["locked"]
    );
}

#[test]
fn what_a_trusted_file_extends_is_a_part_of_what_is_trusted() {
    let place = Place::new();
    place.write("user/base.toml", "[environment]\npass = [\"A\"]\n");
    place.write("work/.fumehood.toml", "extends = [\"base\"]\n");
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    place.trust(&policies, "work/.fumehood.toml");
    assert!(place.choose(&policies, Reference::None).unwrap().layers[0].ends_with(", trusted)"));
    place.write("user/base.toml", "[environment]\npass = [\"A\", \"B\"]\n");
    policies.reload().unwrap();
    assert!(place.choose(&policies, Reference::None).unwrap().layers[0].ends_with("untrusted)"));
}

#[test]
fn a_ceiling_holds_over_everything_that_a_request_can_say() {
    let place = Place::new();
    place.write(
        "system/org.toml",
        "ceiling = true\nextends = [\"default\"]\n[limits]\nwall = \"7s\"\n",
    );
    place.write(
        "system/two.toml",
        "ceiling = true\nextends = [\"default\"]\n[limits]\nprocesses = 9\n",
    );
    place.write("user/wide.toml", MORE);
    place.write("work/.fumehood.toml", MORE);
    let policies = place.load(Inline::Any, vec![]).unwrap();
    place.trust(&policies, "work/.fumehood.toml");
    let inline = format!("version = 1\nname = \"mine\"\n{MORE}");
    for reference in [
        Reference::None,
        Reference::Name("wide"),
        Reference::Name("default"),
        brings(inline.as_bytes()),
    ] {
        let choice = place.choose(&policies, reference).unwrap();
        assert_eq!(mode(&choice), fumehood_policies::NetworkMode::Loopback, "{reference:?}");
        assert!(
            choice.policy.limits.wall <= Some(std::time::Duration::from_secs(7)),
            "{reference:?}"
        );
        assert_eq!(choice.policy.limits.processes, Some(9), "{reference:?}");
        assert_eq!(choice.layers[1..], ["org (system)", "two (system)"], "{reference:?}");
    }
    let examined = policies.examine(&peer(), &place.path("work/.fumehood.toml")).unwrap();
    let words = examined.widenings.iter().any(|widening| widening.key == "network.mode");
    assert!(
        !words,
        "what the ceiling takes away is not said to be given: {:?}",
        examined.widenings
    );
}

#[test]
fn a_policy_that_a_request_brings_is_taken_as_the_configuration_says() {
    let place = Place::new();
    let (more, less) = (
        format!("version = 1\nname = \"more\"\n{MORE}"),
        "version = 1\nname = \"less\"\nextends = [\"default\"]\n[network]\nmode = \"none\"\n".to_owned(),
    );
    fs::write(place.path("more.toml"), &more).unwrap();
    for (inline, takes_less, takes_more, takes_trusted) in [
        (Inline::None, false, false, false),
        (Inline::Trusted, false, false, true),
        (Inline::Narrow, true, false, true),
        (Inline::Any, true, true, true),
    ] {
        let policies = place.load(inline, vec![]).unwrap();
        let choose = |text: &str| place.choose(&policies, brings(text.as_bytes()));
        assert_eq!(choose(&less).is_ok(), takes_less, "{inline:?}");
        let wide = choose(&more);
        assert_eq!(wide.is_ok(), takes_more, "{inline:?}");
        if inline == Inline::Narrow {
            let Err(Refusal::Widens { widenings, base, .. }) = wide else {
                panic!()
            };
            assert_eq!(base, "default");
            assert!(widenings.iter().any(|widening| widening.key == "network.mode"));
        }
        if let Ok(taken) = choose(&less) {
            assert_eq!(taken.policy.network.mode(), fumehood_policies::NetworkMode::None);
        }
        place.trust(&policies, "more.toml");
        assert_eq!(choose(&more).is_ok(), takes_trusted, "{inline:?}");
        assert!(policies.trust().untrust(&place.path("more.toml")).unwrap());
    }
}

#[test]
fn a_policy_that_a_request_brings_stands_under_what_it_names_or_is_cut() {
    let place = Place::new();
    place.write("user/wide.toml", MORE);
    place.write("work/.fumehood.toml", MORE);
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    let text = format!("version = 1\nname = \"more\"\n{MORE}");
    let own = Brought {
        toml: text.as_bytes(),
        origin: "x.toml",
        ..Brought::default()
    };
    let choose = |brought| place.choose(&policies, Reference::Inline(brought));
    assert!(matches!(choose(own), Err(Refusal::Widens { .. })));
    let under = Brought { under: "wide", ..own };
    let named = choose(under).unwrap();
    assert_eq!(named.layers, ["more (request)", "wide"]);
    assert_eq!(mode(&named), fumehood_policies::NetworkMode::Host);
    assert!(named.not_given.is_empty());
    let cut = choose(Brought { cut: true, ..own }).unwrap();
    assert_eq!(mode(&cut), fumehood_policies::NetworkMode::Loopback);
    let keys: Vec<_> = cut.not_given.iter().map(|widening| widening.key).collect();
    assert!(keys.contains(&"network.mode"), "{keys:?}");
    let missing = Brought { under: "none", ..own };
    assert!(matches!(choose(missing), Err(Refusal::NoSuchPolicy { .. })));
    // What the user vouches for is what a request may narrow.
    place.trust(&policies, "work/.fumehood.toml");
    assert_eq!(mode(&choose(own).unwrap()), fumehood_policies::NetworkMode::Host);

    let rule = Rule {
        policies: Some(vec!["locked".to_owned()]),
        ..Rule::default()
    };
    let policies = place.load(Inline::Narrow, vec![rule]).unwrap();
    let refused = place.choose(&policies, Reference::Inline(under));
    assert!(matches!(refused, Err(Refusal::NotYours { .. })));
}

#[test]
fn a_trusted_project_is_not_trusted_elsewhere() {
    let place = Place::new();
    place.write("state/.fumehood.toml", MORE);
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    place.trust(&policies, "state/.fumehood.toml");
    fs::copy(place.path("state/.fumehood.toml"), place.path("work/.fumehood.toml")).unwrap();
    assert!(place.choose(&policies, Reference::None).unwrap().layers[0].ends_with("untrusted)"));
    let text = fs::read(place.path("work/.fumehood.toml")).unwrap();
    let brought = place.choose(&policies, brings(&text));
    assert!(matches!(brought, Err(Refusal::Widens { .. })));
}

#[test]
fn a_list_of_policies_is_all_that_a_peer_may_use() {
    let place = Place::new();
    place.write("user/tight.toml", "[filesystem]\nworkspace = \"read\"\n");
    for listed in [vec!["tight".to_owned()], Vec::new()] {
        let rule = Rule {
            policies: Some(listed),
            ..Rule::default()
        };
        let policies = place.load(Inline::Narrow, vec![rule.clone()]).unwrap();
        let narrow = brings(b"version = 1\nname = \"i\"\n");
        for reference in [Reference::None, Reference::Name(""), narrow] {
            let refused = place.choose(&policies, reference).unwrap_err();
            assert!(matches!(refused, Refusal::NoDefault { .. }), "{reference:?} {refused}");
        }
        let with_default = Rule {
            default: Some("tight".to_owned()),
            ..rule
        };
        let policies = place.load(Inline::Narrow, vec![with_default]).unwrap();
        assert_eq!(place.choose(&policies, Reference::None).unwrap().layers, ["tight"]);
    }
}

#[test]
fn who_may_bring_no_policies_gets_none_by_a_trusted_project() {
    let place = Place::new();
    place.write("work/.fumehood.toml", MORE);
    for (inline, trusted) in [(Inline::None, false), (Inline::Trusted, true)] {
        let rule = Rule {
            default: Some("locked".to_owned()),
            inline: Some(inline),
            ..Rule::default()
        };
        let policies = place.load(Inline::Narrow, vec![rule]).unwrap();
        place.trust(&policies, "work/.fumehood.toml");
        let choice = place.choose(&policies, Reference::None).unwrap();
        let host = mode(&choice) == fumehood_policies::NetworkMode::Host;
        assert_eq!(host, trusted, "{inline:?} {:?}", choice.layers);
    }
}

#[test]
fn text_of_a_wrong_project_is_for_the_daemons_user() {
    let place = Place::new();
    place.write("work/.fumehood.toml", "secret = \"hunter2\"\n");
    let policies = place.load(Inline::Narrow, vec![]).unwrap();
    let told = |peer: &Peer| {
        let labels = BTreeMap::new();
        let workspace = place.path("work").canonicalize().unwrap();
        let asking = Asking {
            peer,
            labels: &labels,
            workspace: Some((&workspace, peer_uid(peer))),
        };
        policies.choose(asking, Reference::None).unwrap_err().to_string()
    };
    assert!(told(&peer()).contains("hunter2"));
    let stranger = Peer {
        identity: Identity::Unix {
            uid: 54_399,
            gid: 54_399,
            pid: None,
        },
        allowed: true,
    };
    let told = told(&stranger);
    assert!(!told.contains("hunter2") && !told.contains("secret"), "{told}");
    assert!(
        told.contains(".fumehood.toml:") && told.contains("fumehood policy check"),
        "{told}"
    );
}

fn peer_uid(peer: &Peer) -> u32 {
    match peer.identity {
        Identity::Unix { uid, .. } => uid,
        Identity::Certificate { .. } => unreachable!("no certificates here"),
    }
}

#[test]
fn access_rules_choose_default_names_and_ceiling() {
    let place = Place::new();
    place.write("user/ci.toml", "[network]\nmode = \"none\"\n");
    place.write("user/org.toml", "extends = [\"default\"]\n[limits]\nprocesses = 5\n");
    let rule = Rule {
        policies: Some(vec!["locked".to_owned()]),
        default: Some("ci".to_owned()),
        ceiling: Some("org".to_owned()),
        ..Rule::default()
    };
    let policies = place.load(Inline::Narrow, vec![rule.clone()]).unwrap();
    let choice = place.choose(&policies, Reference::None).unwrap();
    assert_eq!(choice.layers, ["ci", "org (access)"]);
    assert_eq!(choice.policy.limits.processes, Some(5));
    assert!(place.choose(&policies, Reference::Name("locked")).is_ok());
    assert!(
        place.choose(&policies, Reference::Name("ci")).is_ok(),
        "the default may be named"
    );
    let refused = place.choose(&policies, Reference::Name("default")).unwrap_err();
    assert!(
        matches!(&refused, Refusal::NotYours { may, .. } if may == "ci, locked"),
        "{refused}"
    );
    // It is no way to find out which there are.
    assert!(matches!(
        place.choose(&policies, Reference::Name("nothing")),
        Err(Refusal::NotYours { .. })
    ));

    let other = Rule {
        uid: Some(vec![54_399]),
        ..rule
    };
    let policies = place.load(Inline::Any, vec![other]).unwrap();
    assert!(matches!(
        place.choose(&policies, Reference::None),
        Err(Refusal::NoAccess(..))
    ));
    let wrong = Rule {
        ceiling: Some("gone".to_owned()),
        ..Rule::default()
    };
    let error = place.load(Inline::Any, vec![wrong]).unwrap_err().to_string();
    assert!(
        error.contains("fumehoodd.toml: rule 1 of [[access]]") && error.contains("`gone`"),
        "{error}"
    );
}
