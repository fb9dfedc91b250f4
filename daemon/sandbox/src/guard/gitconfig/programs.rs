//! The variables that name a program, or a directory or file that brings programs.

use super::parse::Entry;

/// What a variable's value is taken for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A command line, a path or a name that git starts.
    Program,
    /// The same, unless the value is a boolean (`core.fsmonitor = true`, `pager.log = false`).
    ProgramOrBool,
    /// A program only when the value begins with `!`.
    Bang,
    /// A directory whose files git starts or copies to where it starts them.
    Directory,
    /// A file that git reads as more configuration.
    Include,
    /// An address: a program when git needs a remote helper for it, as for `ext::sh -c ...`.
    Address,
}

/// `section.key` or `section.*.key`, with `*` for any subsection or key; see git-config(1), and git-lfs-config(5).
#[rustfmt::skip]
const TABLE: &[(&str, Kind)] = &[
    ("core.hookspath", Kind::Directory), ("core.fsmonitor", Kind::ProgramOrBool), ("core.sshcommand", Kind::Program),
    ("core.editor", Kind::Program), ("core.pager", Kind::Program), ("core.askpass", Kind::Program),
    ("core.gitproxy", Kind::Program), ("core.alternaterefscommand", Kind::Program),
    ("hook.*.command", Kind::Program),
    ("init.templatedir", Kind::Directory),
    ("include.path", Kind::Include), ("includeif.*.path", Kind::Include),
    ("alias.*", Kind::Bang), ("alias.*.command", Kind::Bang),
    ("pager.*", Kind::ProgramOrBool), ("sequence.editor", Kind::Program), ("interactive.difffilter", Kind::Program),
    ("credential.helper", Kind::Program), ("credential.*.helper", Kind::Program),
    ("diff.external", Kind::Program), ("diff.*.command", Kind::Program), ("diff.*.textconv", Kind::Program),
    ("filter.*.clean", Kind::Program), ("filter.*.smudge", Kind::Program), ("filter.*.process", Kind::Program),
    ("merge.*.driver", Kind::Program), ("trailer.*.command", Kind::Program), ("trailer.*.cmd", Kind::Program),
    ("gpg.program", Kind::Program), ("gpg.*.program", Kind::Program), ("gpg.ssh.defaultkeycommand", Kind::Program),
    ("gc.recentobjectshook", Kind::Program), ("uploadpack.packobjectshook", Kind::Program),
    ("remote.*.uploadpack", Kind::Program), ("remote.*.receivepack", Kind::Program), ("remote.*.vcs", Kind::Program),
    ("remote.*.url", Kind::Address), ("remote.*.pushurl", Kind::Address), ("submodule.*.url", Kind::Address),
    ("submodule.*.update", Kind::Bang),
    ("difftool.*.cmd", Kind::Program), ("difftool.*.path", Kind::Program),
    ("mergetool.*.cmd", Kind::Program), ("mergetool.*.path", Kind::Program),
    ("guitool.*.cmd", Kind::Program), ("man.*.cmd", Kind::Program), ("man.*.path", Kind::Program),
    ("browser.*.cmd", Kind::Program), ("browser.*.path", Kind::Program), ("instaweb.httpd", Kind::Program),
    ("tar.*.command", Kind::Program), ("imap.tunnel", Kind::Program), ("sendemail.smtpserver", Kind::Program),
    ("sendemail.sendmailcmd", Kind::Program), ("sendemail.*.sendmailcmd", Kind::Program),
    ("sendemail.tocmd", Kind::Program), ("sendemail.*.tocmd", Kind::Program),
    ("sendemail.cccmd", Kind::Program), ("sendemail.*.cccmd", Kind::Program),
    ("sendemail.headercmd", Kind::Program), ("sendemail.*.headercmd", Kind::Program),
    ("sendemail.*.smtpserver", Kind::Program),
    ("lfs.customtransfer.*.path", Kind::Program), ("lfs.extension.*.clean", Kind::Program),
    ("lfs.extension.*.smudge", Kind::Program),
    ("gitflow.path.hooks", Kind::Directory), ("fsmonitor.socketdir", Kind::Directory),
];

fn kind(entry: &Entry) -> Option<Kind> {
    TABLE
        .iter()
        .find(|(pattern, _)| matches(pattern, entry))
        .map(|&(_, kind)| kind)
}

/// Whether a name has the form `section.key`, `section.sub.key`, or one with `*` for its subsection or key.
pub(super) fn matches(pattern: &str, entry: &Entry) -> bool {
    let (section, sub, key) = entry.parts();
    let Some((wanted_section, rest)) = pattern.split_once('.') else {
        return false;
    };
    let (wanted_sub, wanted_key) = match rest.rsplit_once('.') {
        Some((sub, key)) => (Some(sub), key),
        None => (None, rest),
    };
    let sub_fits = match (wanted_sub, sub) {
        (None, None) | (Some("*"), Some(_)) => true,
        (Some(wanted), Some(sub)) => match wanted.strip_suffix("*") {
            Some(start) => sub.starts_with(start.as_bytes()),
            None => sub == wanted.as_bytes(),
        },
        _ => false,
    };
    section == wanted_section.as_bytes() && sub_fits && (wanted_key == "*" || key == wanted_key.as_bytes())
}

/// Whether the entry, with the value it has, makes git start something that the value names.
pub(super) fn names_program(entry: &Entry) -> bool {
    let value = entry.text();
    match kind(entry) {
        None => false,
        Some(Kind::Program | Kind::Directory | Kind::Include) => !value.is_empty(),
        Some(Kind::ProgramOrBool) => {
            !value.is_empty() && !super::harmless::is_bool(entry.value.as_deref()) && entry.value.is_some()
        }
        Some(Kind::Bang) => value.starts_with(b"!"),
        Some(Kind::Address) => super::url::runs_helper(value),
    }
}

/// What a variable of the table does, in words; `None` for one that names no program.
pub(super) fn effect(entry: &Entry) -> Option<&'static str> {
    Some(match kind(entry)? {
        Kind::Program | Kind::ProgramOrBool => "runs a program",
        Kind::Bang => "can run a program",
        Kind::Directory => "names a directory of programs that git runs",
        Kind::Include => "reads more configuration from another file",
        Kind::Address => return None,
    })
}
