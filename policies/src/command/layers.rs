//! The rules of a policy with those of what stands above it.

use std::collections::BTreeMap;

use super::read::{Reading, read, read_line, read_with};
use super::rules::{CommandRules, Judgement, MAX_FINDINGS, Verdict};

/// The section `[commands]`: a policy's own rules, and those of the ceilings that it was narrowed by.
///
/// Each set is judged by itself, with its own `default`, and the strictest holds. They cannot be one list: what a rule of one allows, the
/// `default` of the other may deny.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The policy's own.
    pub own: CommandRules,
    /// Those of the ceilings, each once.
    pub ceilings: Vec<CommandRules>,
}

impl Commands {
    /// Its own, then those of the ceilings.
    pub fn sets(&self) -> impl Iterator<Item = &CommandRules> {
        std::iter::once(&self.own).chain(&self.ceilings)
    }

    /// Whether every command is allowed, whatever it is.
    pub fn is_open(&self) -> bool {
        self.sets().all(CommandRules::is_open)
    }

    /// Judges an argument vector. Time and memory are bounded whatever it holds: see [`read`](super::read).
    pub fn judge(&self, argv: &[Vec<u8>]) -> Judgement {
        match self.is_open() {
            true => open(),
            false => self.judge_reading(&read(argv)),
        }
    }

    /// Judges an argument vector with the variables that it is started with, as if they were written before it, and what it is `given` beside
    /// those, which matters only where a shell evaluates it.
    pub fn judge_with(
        &self,
        argv: &[Vec<u8>],
        env: &[(Vec<u8>, Vec<u8>)],
        given: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Judgement {
        match self.is_open() {
            true => open(),
            false => self.judge_reading(&read_with(argv, env, given)),
        }
    }

    /// Judges a line as bash would read it.
    pub fn judge_line(&self, line: &str) -> Judgement {
        match self.is_open() {
            true => open(),
            false => self.judge_reading(&read_line(line)),
        }
    }

    /// Judges what was read. Of what several sets say about it, all is among the findings, a policy's own first.
    pub fn judge_reading(&self, reading: &Reading) -> Judgement {
        let mut all = self.own.judge_reading(reading);
        for (index, set) in self.ceilings.iter().enumerate() {
            let above = set.judge_reading(reading);
            all.verdict = all.verdict.max(above.verdict);
            all.findings.extend(above.findings.into_iter().map(|mut finding| {
                let place = finding.place.strip_prefix("commands.").unwrap_or(&finding.place);
                finding.place = format!("commands.ceilings[{index}].{place}");
                finding
            }));
        }
        if all.findings.len() > MAX_FINDINGS {
            all.findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
            all.findings.truncate(MAX_FINDINGS);
        }
        all
    }

    /// The rules of a policy under a ceiling: every set of both, each once. A set that allows everything says nothing.
    pub(crate) fn under(&self, ceiling: &Commands) -> Commands {
        let mut sets: Vec<&CommandRules> = Vec::new();
        for set in self.sets().chain(ceiling.sets()) {
            if !set.is_open() && !sets.contains(&set) {
                sets.push(set);
            }
        }
        // What stands first stays first, so that the places of a policy's own rules are those of its file.
        let own = match self.own.is_open() {
            true => self.own.clone(),
            false => sets.remove(0).clone(),
        };
        Commands {
            own,
            ceilings: sets.into_iter().cloned().collect(),
        }
    }
}

fn open() -> Judgement {
    Judgement {
        verdict: Verdict::Allow,
        findings: Vec::new(),
    }
}
