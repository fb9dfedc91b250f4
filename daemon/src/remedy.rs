//! How to get a protection that a machine does not give: what `fumehood doctor` shows, and what a run is told that cannot start without.

use fumehood_sandbox::Cgroups;
use fumehood_sandbox::spec::Protection;

/// What helps where `protection` is not fully active. Empty when nothing is known to. Of cgroups the launcher knows, which tried them.
pub fn of(protection: Protection, cgroups: Option<&Cgroups>) -> String {
    match protection {
        Protection::FilesystemRights if fumehood_sandbox::landlock_abi() > 0 => {
            "run Linux 6.2 or newer, whose Landlock covers truncation".to_owned()
        }
        Protection::FilesystemRights => {
            "boot a kernel with CONFIG_SECURITY_LANDLOCK=y and `landlock` in the lsm= parameter (Linux 6.2 or newer)"
                .to_owned()
        }
        Protection::ProtectedPaths => {
            "run Linux 5.14 or newer with CONFIG_SECCOMP_FILTER=y, outside of other sandboxes that watch system calls"
                .to_owned()
        }
        Protection::Network => "choose another `network.mode`, or do not require `network`".to_owned(),
        Protection::Ipc => "run Linux 6.12 or newer with Landlock, whose scopes cover abstract sockets".to_owned(),
        Protection::Resources => cgroups.map(|cgroups| cgroups.remedy.join("; ")).unwrap_or_default(),
        _ => namespaces(),
    }
}

/// What stands in the way of user namespaces most often, as far as the kernel's settings tell.
pub fn namespaces() -> String {
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or an AppArmor profile that grants `userns`)".to_owned();
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1".to_owned();
    }
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return "sudo sysctl -w user.max_user_namespaces=15000".to_owned();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use fumehood_sandbox::spec::State;

    use super::*;

    #[test]
    fn what_helps_with_limits_is_what_the_launcher_found() {
        let cgroups = Cgroups {
            version: 0,
            state: State::Off("not permitted".to_owned()),
            remedy: vec!["mkdir x".to_owned(), "chown x".to_owned()],
        };
        assert_eq!(of(Protection::Resources, Some(&cgroups)), "mkdir x; chown x");
        assert_eq!(of(Protection::Resources, None), "");
    }
}
