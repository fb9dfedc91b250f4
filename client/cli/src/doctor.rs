//! `fumehood doctor`: what this machine can enforce, found by trying, and whether a command can be run here at all.

use std::io::IsTerminal;
use std::time::Duration;

use fumehood_client::Client;
use fumehood_client::proto::v1::{
    CapabilitiesResponse, Capability, CgroupVersion, Enforcement, Finished, ProtectionState, Requirement, RunSpec,
    StartRequest, ending::Kind, run_event::Event,
};

use crate::args::DoctorArgs;
use crate::failure::Failure;
use crate::{json, print, render, start, table};

/// A command that does nothing is over within this time, sandbox and all.
const TRIAL_PATIENCE: Duration = Duration::from_secs(30);

/// Prints the findings; gives 0 when a command can be run with everything required, else 1.
pub async fn run(args: DoctorArgs) -> Result<u8, Failure> {
    let connected = start::connect(&args.connect).await?;
    let found = connected.client.capabilities().await?;
    let trial = Trial::run(&connected.client).await;
    let ok = matches!(&trial, Ok(trial) if trial.passed());
    if args.json {
        let told = trial.as_ref().ok().map(|trial| (&trial.enforcement, &trial.finished));
        print(&format!("{:#}\n", json::capabilities(&found, told, ok)))?;
        if let Err(failure) = trial {
            return Err(failure);
        }
    } else {
        let language = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .filter_map(std::env::var_os)
            .find(|value| !value.is_empty());
        let utf_8 = language.is_some_and(|value| is_utf_8(&value.to_string_lossy()));
        let marks = if std::io::stdout().is_terminal() && utf_8 {
            &SYMBOLS
        } else {
            &ASCII
        };
        let mut lines = machine(&found, marks);
        lines.push(String::new());
        lines.extend(match &trial {
            Ok(trial) => trial.lines(marks),
            Err(failure) => vec![format!(
                "{} a trial run could not be made: {}",
                marks.off,
                crate::failure::chain(failure)
            )],
        });
        print(&(lines.join("\n") + "\n"))?;
    }
    Ok(u8::from(!ok))
}

/// How the three states are marked.
struct Marks {
    active: &'static str,
    degraded: &'static str,
    off: &'static str,
}

const SYMBOLS: Marks = Marks {
    active: "\u{2713}",
    degraded: "~",
    off: "\u{2717}",
};
const ASCII: Marks = Marks {
    active: "+",
    degraded: "~",
    off: "x",
};

impl Marks {
    fn of(&self, state: i32) -> &'static str {
        match ProtectionState::try_from(state) {
            Ok(ProtectionState::Active) => self.active,
            Ok(ProtectionState::Degraded) => self.degraded,
            Ok(ProtectionState::Off) => self.off,
            _ => "?",
        }
    }
}

/// Whether a locale's name says UTF-8.
fn is_utf_8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

fn machine(found: &CapabilitiesResponse, marks: &Marks) -> Vec<String> {
    let CapabilitiesResponse {
        capabilities,
        kernel_release,
        landlock_abi,
        cgroup_version,
        daemon_uid,
    } = found;
    let landlock = if *landlock_abi == 0 {
        "not available".to_owned()
    } else {
        format!("ABI {landlock_abi}")
    };
    let cgroups = match CgroupVersion::try_from(*cgroup_version) {
        Ok(CgroupVersion::V1) => "version 1",
        Ok(CgroupVersion::V2) => "version 2",
        _ => "not usable",
    };
    let mut lines = vec![
        format!(
            "Linux {kernel_release}, Landlock {landlock}, cgroups {cgroups}; the daemon runs as user id {daemon_uid}"
        ),
        String::new(),
    ];
    let row = |capability: &Capability| {
        let Capability {
            protection,
            name,
            state,
            detail,
            remedy: _,
        } = capability;
        let state = format!("{} {}", marks.of(*state), render::state_word(*state));
        vec![
            state,
            render::protection(*protection).into_owned(),
            name.clone(),
            detail.clone(),
        ]
    };
    let head = ["STATE", "PROTECTION", "CHECK", "DETAIL"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(capabilities.iter().map(row)).collect();
    let mut drawn = table::lines(&rows).into_iter();
    lines.extend(drawn.next());
    for (line, capability) in drawn.zip(capabilities) {
        lines.push(line);
        if !capability.remedy.is_empty() {
            lines.push(format!("    mend it with: {}", capability.remedy));
        }
    }
    lines
}

/// How a command that does nothing went, in the current directory and under the default policy.
struct Trial {
    policy: String,
    enforcement: Enforcement,
    finished: Finished,
}

impl Trial {
    async fn run(client: &Client) -> Result<Self, Failure> {
        let workspace = std::env::current_dir().map_err(Failure::CurrentDirectory)?;
        let spec = RunSpec {
            argv: vec!["true".into()],
            workspace: workspace.into_os_string().into_encoded_bytes().into(),
            labels: [("fumehood.purpose".to_owned(), "doctor".to_owned())].into(),
            ..RunSpec::default()
        };
        let follow = async {
            let mut handle = client
                .run(StartRequest {
                    run_id: String::new(),
                    spec: Some(spec),
                })
                .await?;
            let (mut policy, mut enforcement) = (String::new(), Enforcement::default());
            while let Some(event) = handle.events().next().await? {
                match event.event {
                    Some(Event::Started(started)) => {
                        policy = started.policy_name;
                        enforcement = started.enforcement.unwrap_or_default();
                    }
                    Some(Event::Finished(finished)) => {
                        return Ok(Self {
                            policy,
                            enforcement,
                            finished,
                        });
                    }
                    _ => {}
                }
            }
            Err(fumehood_client::Error::Interrupted)
        };
        match tokio::time::timeout(TRIAL_PATIENCE, follow).await {
            Ok(trial) => Ok(trial?),
            Err(_) => Err(Failure::Trial {
                seconds: TRIAL_PATIENCE.as_secs(),
            }),
        }
    }

    fn passed(&self) -> bool {
        let exited = matches!(
            self.finished.ending.as_ref().and_then(|ending| ending.kind.as_ref()),
            Some(Kind::Exited(exited)) if exited.code == 0
        );
        exited
            && !self
                .enforcement
                .entries
                .iter()
                .any(|entry| entry.requirement() == Requirement::Required && entry.state() != ProtectionState::Active)
    }

    fn lines(&self, marks: &Marks) -> Vec<String> {
        if self.passed() {
            let entries = &self.enforcement.entries;
            let active = entries
                .iter()
                .filter(|entry| entry.state() == ProtectionState::Active)
                .count();
            let mut lines = vec![format!(
                "{} a command runs here under the policy `{}`, with {active} of {} protections active",
                marks.active,
                self.policy,
                entries.len()
            )];
            lines.extend(self.missing(Requirement::Preferred, "preferred"));
            return lines;
        }
        let why = self
            .finished
            .ending
            .as_ref()
            .and_then(|ending| render::notice(ending, b"true"));
        let mut lines = vec![match why {
            Some(why) => format!("{} no command runs here under the default policy: {why}", marks.off),
            None => format!(
                "{} `true` ended with {} in the sandbox, not with 0",
                marks.off, self.finished.shell_code
            ),
        }];
        lines.extend(self.missing(Requirement::Required, "required"));
        lines
    }

    /// A line for each protection that the policy asks for so and that is not active.
    fn missing(&self, requirement: Requirement, word: &str) -> impl Iterator<Item = String> {
        let entries = self.enforcement.entries.iter();
        let missing =
            entries.filter(move |entry| entry.requirement() == requirement && entry.state() != ProtectionState::Active);
        missing.map(move |entry| {
            format!(
                "  {} {word} but {}: {}",
                render::protection(entry.protection),
                render::state_word(entry.state),
                entry.detail
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_client::proto::v1::{Ending, EnforcementEntry, Exited, SandboxFailed};

    fn capability(state: ProtectionState, remedy: &str) -> Capability {
        Capability {
            protection: 4,
            name: "connect".to_owned(),
            state: state.into(),
            detail: "why".to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn trial(kind: Kind, requirement: Requirement, state: ProtectionState) -> Trial {
        let entry = EnforcementEntry {
            protection: 4,
            state: state.into(),
            detail: "no namespaces".to_owned(),
            requirement: requirement.into(),
        };
        Trial {
            policy: "default".to_owned(),
            enforcement: Enforcement { entries: vec![entry] },
            finished: Finished {
                ending: Some(Ending { kind: Some(kind) }),
                shell_code: 0,
                usage: None,
                ..Finished::default()
            },
        }
    }

    #[test]
    fn a_remedy_follows_what_it_mends() {
        let found = CapabilitiesResponse {
            capabilities: vec![
                capability(ProtectionState::Active, ""),
                capability(ProtectionState::Off, "sysctl x=1"),
            ],
            kernel_release: "6.18.44".to_owned(),
            landlock_abi: 0,
            cgroup_version: 2,
            daemon_uid: 7,
        };
        let lines = machine(&found, &ASCII);
        assert_eq!(
            lines[0],
            "Linux 6.18.44, Landlock not available, cgroups version 2; the daemon runs as user id 7"
        );
        assert_eq!(lines[2], "STATE     PROTECTION  CHECK    DETAIL");
        assert_eq!(lines[3], "+ active  network     connect  why");
        assert_eq!(lines[4], "x off     network     connect  why");
        assert_eq!(lines[5], "    mend it with: sysctl x=1");
    }

    #[test]
    fn only_what_is_required_must_be_in_force() {
        let exited = |code| Kind::Exited(Exited { code });
        assert!(trial(exited(0), Requirement::Required, ProtectionState::Active).passed());
        assert!(trial(exited(0), Requirement::None, ProtectionState::Off).passed());
        let preferred = trial(exited(0), Requirement::Preferred, ProtectionState::Off);
        assert!(preferred.passed());
        assert!(preferred.lines(&ASCII)[1].contains("network preferred but off: no namespaces"));
        assert!(!trial(exited(0), Requirement::Required, ProtectionState::Off).passed());
        assert!(!trial(exited(1), Requirement::Required, ProtectionState::Active).passed());
        assert!(
            !trial(
                Kind::SandboxFailed(SandboxFailed::default()),
                Requirement::Required,
                ProtectionState::Active
            )
            .passed()
        );
    }

    #[test]
    fn what_is_missing_is_told() {
        let lines = trial(
            Kind::Exited(Exited { code: 0 }),
            Requirement::Required,
            ProtectionState::Off,
        )
        .lines(&ASCII);
        assert!(
            lines
                .iter()
                .any(|line| line.contains("network required but off: no namespaces")),
            "{lines:?}"
        );
    }

    #[test]
    fn locales_are_told_apart() {
        assert!(is_utf_8("en_US.UTF-8") && is_utf_8("C.utf8"));
        assert!(!is_utf_8("C") && !is_utf_8("de_DE.ISO-8859-1"));
    }
}
