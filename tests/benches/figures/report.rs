//! The printed page: ratios first, because they travel between machines, then the figures they come from.

use std::fmt::{self, Display, Formatter};

use fumehood_client::proto::v1::{CapabilitiesResponse, CgroupVersion};

/// What was found.
#[derive(Default)]
pub struct Report {
    ratios: Vec<(String, f64)>,
    absolutes: Vec<(String, String)>,
}

impl Report {
    pub fn ratio(&mut self, name: impl Into<String>, ratio: f64) {
        self.ratios.push((name.into(), ratio));
    }

    pub fn absolute(&mut self, name: impl Into<String>, value: impl Display) {
        self.absolutes.push((name.into(), value.to_string()));
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nratios")?;
        for (name, ratio) in &self.ratios {
            writeln!(f, "  {name:<66} {ratio:>8.2}")?;
        }
        writeln!(f, "\nabsolutes")?;
        for (name, value) in &self.absolutes {
            writeln!(f, "  {name:<58} {value}")?;
        }
        Ok(())
    }
}

/// On what it was measured.
pub fn header(machine: &CapabilitiesResponse, seed: u64) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cgroup = match machine.cgroup_version() {
        CgroupVersion::Unspecified => "none",
        CgroupVersion::V1 => "v1",
        CgroupVersion::V2 => "v2",
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "kernel {} · {cores} cores · cgroup {cgroup} · Landlock ABI {} · uid {} · load before {} · {} build · seed {seed}",
        machine.kernel_release,
        machine.landlock_abi,
        machine.daemon_uid,
        load.split(' ').next().unwrap_or("unknown"),
        if cfg!(debug_assertions) {
            "debug (figures mean little)"
        } else {
            "release"
        },
    )
}
