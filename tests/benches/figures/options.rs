//! What is measured, and how often.

use std::time::Duration;

use crate::Result;

const HELP: &str = "\
What a command through the daemon costs, beside what it costs without.

Usage: cargo bench -p fumehood-tests --bench figures [-- OPTIONS]

  --quick         a tenth of the samples: to see that it works, not what it costs
  --runs N        commands of the latency section, back to back (default 200)
  --only A,B      only these sections: latency throughput streaming process start memory
                  neighbours
";

/// What the command line asks for.
pub enum Asked {
    Figures(Options),
    /// Only to print this.
    Nothing(String),
}

/// How often.
pub struct Options {
    /// Commands back to back.
    pub runs: usize,
    /// Commands with gaps between, and whole processes.
    pub gap_runs: usize,
    /// Rounds of throughput and streaming.
    pub rounds: usize,
    /// Length of a round of throughput.
    pub period: Duration,
    /// Daemons started.
    pub starts: usize,
    only: Option<Vec<Section>>,
}

/// A part that can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Latency,
    Throughput,
    Streaming,
    Process,
    Start,
    Memory,
    Neighbours,
}

impl Section {
    pub const ALL: [Section; 7] = [
        Section::Latency,
        Section::Throughput,
        Section::Streaming,
        Section::Process,
        Section::Start,
        Section::Memory,
        Section::Neighbours,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Section::Latency => "latency",
            Section::Throughput => "throughput",
            Section::Streaming => "streaming",
            Section::Process => "process",
            Section::Start => "start",
            Section::Memory => "memory",
            Section::Neighbours => "neighbours",
        }
    }
}

impl Options {
    pub fn wants(&self, section: Section) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&section))
    }
}

/// Reads the command line. `cargo bench` says `--bench`; without it this is `cargo test --all-targets` or a test runner that
/// asks for a list, and there is nothing to test here.
pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Asked> {
    let (mut bench, mut quick, mut runs, mut only) = (false, false, None, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value; see --help"));
        match argument.as_str() {
            "--bench" => bench = true,
            "--quick" => quick = true,
            "--runs" => {
                let text = value()?;
                let number = text
                    .parse::<usize>()
                    .ok()
                    .filter(|number| (1..=1_000_000).contains(number));
                runs = Some(number.ok_or(format!("--runs {text}: not a number between 1 and 1000000"))?);
            }
            "--only" => {
                let sections = value()?;
                only = Some(sections.split(',').map(section).collect::<Result<Vec<_>>>()?);
            }
            "--help" | "-h" => return Ok(Asked::Nothing(HELP.to_owned())),
            "--list" => return Ok(Asked::Nothing(String::new())),
            _ if !bench => {}
            other => return Err(format!("{other} is no option of this; see --help").into()),
        }
    }
    if !bench {
        return Ok(Asked::Nothing(
            "figures: nothing to test; run `cargo bench`\n".to_owned(),
        ));
    }
    let scale = |full: usize, few: usize| if quick { few } else { full };
    Ok(Asked::Figures(Options {
        runs: runs.unwrap_or(scale(200, 20)),
        gap_runs: scale(40, 5),
        rounds: scale(3, 1),
        period: Duration::from_millis(scale(2000, 500) as u64),
        starts: scale(5, 1),
        only,
    }))
}

fn section(name: &str) -> Result<Section> {
    let found = Section::ALL.into_iter().find(|section| section.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = Section::ALL.iter().map(|section| section.name()).collect();
        format!("--only {name}: no such section; there are {}", names.join(", ")).into()
    })
}
