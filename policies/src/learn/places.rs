//! Which paths are whose, and how far each may be generalised.

use super::Facts;

/// What every program of the system needs, granted whole: nothing in these is anybody's secret.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/snap",
    "/run/current-system",
    "/home/linuxbrew/.linuxbrew",
];

/// Directories in which each entry is a program of its own: granted one level below.
const VENDORS: &[&str] = &["/opt", "/var/lib", "/var/cache", "/nix/var/nix/profiles"];

/// File systems and files that every sandbox makes itself.
const OWN: &[&str] = &["/proc", "/sys", "/dev", "/run"];
const WRITTEN: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
];

/// Private places of a sandbox.
const TMP: &[&str] = &["/tmp", "/var/tmp"];

/// Places of toolchains in the home: an installation or a cache, granted whole. The settings beside them are granted file by file.
const TOOLCHAINS: &[&str] = &[
    ".cargo/registry",        // cargo: crates
    ".cargo/git",             // cargo: crates from repositories
    ".cargo/bin",             // rustup's proxies, installed programs
    ".rustup/toolchains",     // rustc, the standard library
    ".npm",                   // npm: cache
    ".nvm",                   // nvm: Node.js
    ".volta/tools",           // Volta: Node.js
    ".local/share/fnm",       // fnm: Node.js
    ".local/share/pnpm",      // pnpm: store
    ".cache/node",            // corepack
    ".bun/install",           // Bun
    ".deno",                  // Deno
    ".pyenv",                 // pyenv: Python
    ".local/share/uv/python", // uv: Python
    ".local/share/uv/tools",  // uv: programs
    ".cache/uv",              // uv: cache
    ".cache/pip",             // pip: cache
    ".cache/ms-playwright",   // Playwright: browsers
    "go/pkg/mod",             // go: modules
    "go/bin",                 // go: installed programs
    "sdk",                    // go: toolchains
    ".cache/go-build",        // go: cache
    ".m2/repository",         // Maven: artifacts
    ".gradle/caches",         // Gradle: artifacts
    ".gradle/wrapper",        // Gradle: itself
    ".sdkman/candidates",     // SDKMAN: JDKs
    ".rbenv",                 // rbenv: Ruby
    ".asdf",                  // asdf
    ".local/share/mise",      // mise
    ".cache/ccache",          // ccache
    ".local/bin",             // the user's programs
];

/// Directories of many programs: never granted whole.
const SHARED: &[&str] = &[
    "/",
    "/etc",
    "/etc/ssl",
    "/home",
    "/root",
    "/var",
    "/var/lib",
    "/var/cache",
    "/opt",
    "/srv",
    "/mnt",
    "/media",
    "/nix",
    "/gnu",
    "/data",
];

/// The same below the home.
const SHARED_IN_HOME: &[&str] = &[
    ".config",
    ".cache",
    ".local",
    ".local/share",
    ".local/state",
    ".local/lib",
];

/// Parts of names of files that hold secrets, in lower case.
const SECRET_PARTS: &[&str] = &[
    "token",
    "secret",
    "credential",
    "passwd",
    "password",
    "passphrase",
    "private_key",
    "private-key",
    "apikey",
    "api_key",
    "api-key",
];

/// Beginnings and ends of such names, and whole ones.
const SECRET_STARTS: &[&str] = &["id_", ".env."];
const SECRET_ENDS: &[&str] = &[
    ".pem",
    ".key",
    ".p12",
    ".pfx",
    ".jks",
    ".keystore",
    ".kdbx",
    ".ppk",
    ".gpg",
    ".age",
    "_history",
    ".env",
];

/// Whether a file is called like one that holds a secret. What programs bring along is not: `/usr` is granted as a whole.
pub(super) fn looks_secret(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| name.contains(part))
        || SECRET_STARTS.iter().any(|start| name.starts_with(start))
        || SECRET_ENDS.iter().any(|end| name.ends_with(end))
}

/// Whose a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The project's.
    Workspace,
    /// The sandbox's own.
    Own,
    /// `/tmp`.
    Tmp,
    /// Hidden.
    Hidden,
    /// Not shown by the policy that it was watched under.
    Absent,
    /// Of a tree that is granted whole.
    Tree(String),
    /// Somewhere else.
    Single,
}

/// Whether `path` is `above` or lies below it.
pub(super) fn within(path: &str, above: &str) -> bool {
    above == "/"
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directory of a path; the root's is the root.
pub(super) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

pub(super) fn place(path: &str, facts: &Facts) -> Place {
    let within_any = |list: &[&str]| list.iter().any(|above| within(path, above));
    if within(path, &facts.workspace) || facts.repository.as_ref().is_some_and(|above| within(path, above)) {
        return Place::Workspace;
    }
    if is_hidden(path, facts) {
        return Place::Hidden;
    }
    let system = SYSTEM.iter().find(|root| within(path, root));
    if system.is_none() && !within(path, &facts.home) {
        if within_any(TMP) {
            return Place::Tmp;
        }
        if within_any(OWN) || WRITTEN.contains(&path) {
            return Place::Own;
        }
    }
    if !is_shown(path, facts) {
        return Place::Absent;
    }
    let tree = system
        .map(|root| (*root).to_owned())
        .or_else(|| vendor(path))
        .or_else(|| toolchain(path, facts));
    match tree {
        // A tree that is shown in part only is granted as far as it was asked for.
        Some(tree) if is_shown(&tree, facts) && !holds_hidden(&tree, facts) => Place::Tree(tree),
        _ => Place::Single,
    }
}

/// One level below a directory of vendors: `/opt/rust` of `/opt/rust/bin/rustc`.
fn vendor(path: &str) -> Option<String> {
    let (above, rest) = VENDORS
        .iter()
        .find_map(|above| Some((above, path.strip_prefix(above)?.strip_prefix('/')?)))?;
    let (name, _) = rest.split_once('/')?;
    Some(format!("{above}/{name}"))
}

fn toolchain(path: &str, facts: &Facts) -> Option<String> {
    let rest = path.strip_prefix(&facts.home)?.strip_prefix('/')?;
    let root = TOOLCHAINS.iter().find(|root| within(rest, root))?;
    Some(format!("{}/{root}", facts.home))
}

pub(super) fn is_hidden(path: &str, facts: &Facts) -> bool {
    facts.hidden.iter().any(|hidden| within(path, hidden))
}

fn holds_hidden(directory: &str, facts: &Facts) -> bool {
    facts.hidden.iter().any(|hidden| within(hidden, directory))
}

pub(super) fn is_shown(path: &str, facts: &Facts) -> bool {
    facts.shown.iter().any(|shown| within(path, shown))
}

/// Whether a directory may be granted whole.
pub(super) fn may_be_whole(directory: &str, facts: &Facts) -> bool {
    let in_home = directory
        .strip_prefix(&facts.home)
        .and_then(|rest| rest.strip_prefix('/'));
    !SHARED.contains(&directory)
        && !in_home.is_some_and(|rest| SHARED_IN_HOME.contains(&rest))
        && !within(&facts.home, directory)
        && !within(&facts.workspace, directory)
        && !holds_hidden(directory, facts)
        && is_shown(directory, facts)
        && !is_hidden(directory, facts)
}

/// A path as a policy writes it.
pub(super) fn written(path: &str, facts: &Facts) -> String {
    match path.strip_prefix(&facts.home) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("${{home}}{rest}"),
        _ => path.to_owned(),
    }
}
