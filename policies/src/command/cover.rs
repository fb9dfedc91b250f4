//! Whether answers that were given earlier cover what a line is asked about.

use super::SimpleCommand;
use super::layers::Commands;
use super::narrow::NotNarrow;
use super::read::{Reading, read};
use super::rules::{CommandRules, Rule, Verdict};

impl Commands {
    /// Which of `rules` let pass everything that is asked about an argument vector, by index, each once; `None` when something is
    /// left to ask, is denied, or could not be read. A rule lets pass what a rule of a policy that allows would.
    pub fn covered_by(&self, argv: &[Vec<u8>], rules: &[&Rule]) -> Option<Vec<usize>> {
        let reading = read(argv);
        let mut used = Vec::new();
        for command in self.asked(&reading)? {
            let covering = rules.iter().position(|rule| rule.matches(command, &reading))?;
            if !used.contains(&covering) {
                used.push(covering);
            }
        }
        (!used.is_empty()).then_some(used)
    }

    /// The narrow rule for each command of an argument vector that is asked about.
    ///
    /// # Errors
    /// Why one of them has none; see [`CommandRules::rule_for`].
    pub fn rules_for_asked(&self, argv: &[Vec<u8>]) -> Result<Vec<Rule>, NotNarrow> {
        let reading = read(argv);
        let unread = || {
            reading
                .unreadable
                .first()
                .map_or_else(String::new, |part| part.why.clone())
        };
        let asked = self.asked(&reading).ok_or_else(|| NotNarrow::Unreadable(unread()))?;
        let mut rules: Vec<Rule> = Vec::new();
        for command in asked {
            let words = std::iter::once(&command.program).chain(&command.args);
            let known: Option<Vec<Vec<u8>>> = words.map(|word| word.bytes().map(<[u8]>::to_vec)).collect();
            let known =
                known.ok_or_else(|| NotNarrow::NotExact("some words are known only when it runs".to_owned()))?;
            let rule = CommandRules::rule_for(&known)?;
            // A rule that would not let pass the command it was made of, because that redirects to a file or sets variables, is none.
            if !rule.matches(command, &reading) {
                return Err(NotNarrow::NotExact(
                    "it redirects to a file or sets variables".to_owned(),
                ));
            }
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        match rules.is_empty() {
            true => Err(NotNarrow::NotOne(0)),
            false => Ok(rules),
        }
    }

    /// The commands that some set asks about; `None` when one is denied, or when more is asked about than commands that were read.
    fn asked<'r>(&self, reading: &'r Reading) -> Option<Vec<&'r SimpleCommand>> {
        let mut asked = Vec::new();
        for set in self.sets() {
            if set.unreadable != Verdict::Allow && !reading.unreadable.is_empty() {
                return None;
            }
            for command in &reading.commands {
                let (verdict, rule) = set.decide(command, reading);
                if rule.is_none() && command.transparent {
                    continue;
                }
                match verdict {
                    Verdict::Allow => {}
                    Verdict::Ask => asked.push(command),
                    Verdict::Deny => return None,
                }
            }
        }
        Some(asked)
    }
}

/// Whether all that an argument vector runs surely runs in the directory that it is started in. `cd` to that very directory stays there.
pub fn stays_in(argv: &[Vec<u8>], directory: &[u8]) -> bool {
    let reading = read(argv);
    let stays = |command: &SimpleCommand| {
        let Some(path) = command.program.bytes() else {
            return false;
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let args = &command.args;
        let starts = |starts: &[&[u8]]| {
            args.iter().any(|arg| {
                arg.bytes()
                    .is_none_or(|bytes| starts.iter().any(|start| bytes.starts_with(start)))
            })
        };
        // Letters in a cluster, too: `env -iC x`.
        let letter = |letters: &[u8]| {
            args.iter().any(|arg| {
                arg.bytes().is_none_or(|bytes| {
                    bytes.starts_with(b"-")
                        && !bytes.starts_with(b"--")
                        && bytes.iter().any(|byte| letters.contains(byte))
                })
            })
        };
        match name {
            b"cd" => match args.as_slice() {
                [to] => to.bytes().is_some_and(|to| {
                    let end = to.len() - to.iter().rev().take_while(|byte| **byte == b'/').count();
                    to == b"." || &to[..end] == directory
                }),
                _ => false,
            },
            b"pushd" | b"popd" => false,
            b"env" => !(letter(b"CS") || starts(&[b"--c", b"--sp"])),
            b"sudo" | b"doas" => !(letter(b"Di") || starts(&[b"--chd", b"--login"])),
            b"find" | b"gfind" => !starts(&[b"-execdir", b"-okdir"]),
            b"su" | b"chroot" | b"unshare" | b"nsenter" | b"systemd-run" | b"start-stop-daemon" | b"parallel" => false,
            _ => true,
        }
    };
    reading.commands.iter().all(stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_its_directory_is_found() {
        for stays in [
            "git push",
            "cd /w && git push",
            "cd /w/; git push",
            "cd . && ls",
            "env -i git push",
        ] {
            assert!(stays_in(&line(stays), b"/w"), "{stays}");
        }
        for leaves in [
            "cd x && git push",
            "cd; git push",
            "cd $x; git push",
            "cd /w/x; git push",
            "pushd /x; git push",
            "env -C x git push",
            "env -iC x git push",
            "env --chdir=x git push",
            "find . -execdir git push ';'",
            "sudo -D x git push",
        ] {
            assert!(!stays_in(&line(leaves), b"/w"), "{leaves}");
        }
    }

    fn commands(toml: &str) -> Commands {
        let text = format!("version = 1\nname = \"t\"\n{toml}");
        crate::Policy::parse(text.as_bytes(), "t").unwrap().commands
    }

    fn line(script: &str) -> Vec<Vec<u8>> {
        ["bash", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec()
    }

    fn argv(words: &str) -> Vec<Vec<u8>> {
        words.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    const ASKS: &str = "[commands]\ndefault = \"allow\"\nunreadable = \"ask\"\n\
        [[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"ask\"\n\
        [[commands.rules]]\nprogram = \"npm\"\nargs = [\"publish\"]\ndecision = \"ask\"\n\
        [[commands.rules]]\nprogram = \"rm\"\ndecision = \"deny\"\n";

    #[test]
    fn a_line_is_covered_when_each_command_that_is_asked_about_is() {
        let commands = commands(ASKS);
        let push = CommandRules::rule_for(&argv("git push origin main")).unwrap();
        let publish = CommandRules::rule_for(&argv("npm publish")).unwrap();
        let both = [&push, &publish];
        let covered = |argv: &[Vec<u8>]| commands.covered_by(argv, &both);
        assert_eq!(covered(&argv("git push origin main")), Some(vec![0]));
        assert_eq!(covered(&line("cd x && git push origin main; ls")), Some(vec![0]));
        assert_eq!(covered(&line("npm publish && git push origin main")), Some(vec![1, 0]));
        for uncovered in [
            "git push origin other",
            "git push origin main --force",
            "git push origin main; npm publish --access public",
            "git push origin main > out",
            "GIT_SSH_COMMAND=x git push origin main",
            "git push origin $x",
            "git push origin main; rm y",
            "git push origin main; $(cat z)",
        ] {
            assert_eq!(covered(&line(uncovered)), None, "{uncovered}");
        }
        assert_eq!(commands.covered_by(&argv("git push origin main"), &[&publish]), None);
    }

    #[test]
    fn rules_are_made_of_what_is_asked_about_only() {
        let commands = commands(ASKS);
        let push = CommandRules::rule_for(&argv("git push origin main")).unwrap();
        assert_eq!(
            commands.rules_for_asked(&line("make; git push origin main")),
            Ok(vec![push])
        );
        for none in ["git push origin $x", "git push > x", "A=1 git push", "eval \"$x\""] {
            assert!(commands.rules_for_asked(&line(none)).is_err(), "{none}");
        }
    }

    #[test]
    fn what_a_ceiling_asks_about_is_to_be_covered_too() {
        let own = commands(ASKS);
        let above =
            commands("[commands]\ndefault = \"ask\"\n[[commands.rules]]\nprogram = \"git\"\ndecision = \"allow\"\n");
        let both = own.under(&above);
        let publish = CommandRules::rule_for(&argv("npm publish")).unwrap();
        assert_eq!(both.covered_by(&line("npm publish"), &[&publish]), Some(vec![0]));
        assert_eq!(both.covered_by(&line("npm publish; npm test"), &[&publish]), None);
    }
}
