//! The judgement over small contents; `tests/syntax.rs` compares the parser and `tests/commands.rs` the judgement with
//! what git itself does.

mod commands;
mod syntax;

use super::{Place, Refused, check, check_run, programs};

/// A place where paths that contain `inside` are allowed.
fn judge(old: &str, new: &str) -> Result<(), Refused> {
    let inside = |path: &[u8]| path.windows(6).any(|part| part == b"inside");
    check(
        Some(old.as_bytes()),
        new.as_bytes(),
        &Place {
            worktree_allowed: &inside,
            worktree_was_its_own: &inside,
            made_here: false,
            bare_allowed: true,
            local_url_allowed: &inside,
        },
    )
}

#[track_caller]
fn accepted(old: &str, new: &str) {
    if let Err(refused) = judge(old, new) {
        panic!("refused: {refused}\n{old}\n->\n{new}");
    }
}

#[track_caller]
fn refused(old: &str, new: &str, key: &str) {
    match judge(old, new) {
        Ok(()) => panic!("accepted, but {key} must be refused:\n{old}\n->\n{new}"),
        Err(refused) => assert_eq!(refused.key, key, "{refused}\n{old}\n->\n{new}"),
    }
}

/// What `git init`, `git clone` and the user left, with a program of the user's own and a second remote.
const REPOSITORY: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
    \thooksPath = .husky\n[remote \"origin\"]\n\turl = https://example.org/a.git\n\
    \tfetch = +refs/heads/*:refs/remotes/origin/*\n[remote \"fork\"]\n\turl = git@example.org:me/a.git\n\
    \tpushurl = ssh://git@example.org/me/a.git\n\tfetch = +refs/heads/*:refs/remotes/fork/*\n\
    [branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n\tmergeOptions = --no-ff\n\
    [credential]\n\thelper = \n\thelper = store\n[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n";

fn with(more: &str) -> String {
    format!("{REPOSITORY}{more}")
}

#[test]
fn what_a_program_could_be_made_to_run_by_is_refused() {
    #[rustfmt::skip]
    let attacks = [
        ("[core]\n\tfsmonitor = \"touch x;false\"\n", "core.fsmonitor"),
        ("[core]\nfsmonitor\n", "core.fsmonitor"),
        ("[core]\nfsmonitor = true\n", "core.fsmonitor"),
        ("[core] sshCommand = x\n", "core.sshcommand"),
        ("[CORE] EDITOR = x\n", "core.editor"),
        ("[core]\npager = x\n", "core.pager"),
        ("[core]\naskPass = x\n", "core.askpass"),
        ("[core]\ngitProxy = x\n", "core.gitproxy"),
        ("[core]\nalternateRefsCommand = x\n", "core.alternaterefscommand"),
        ("[core]\nhooksPath = evil\n", "core.hookspath"),
        ("[core]\nhooksPath = /dev/null\n", "core.hookspath"),
        ("[core]\nattributesFile = x\n", "core.attributesfile"),
        ("[core]\nexcludesFile = x\n", "core.excludesfile"),
        ("[core]\nworktree = /home\n", "core.worktree"),
        ("[core]\nsharedRepository = 0666\n", "core.sharedrepository"),
        ("[core]\nrepositoryformatversion = 2\n", "core.repositoryformatversion"),
        ("[diff]\nexternal = x\n", "diff.external"),
        ("[diff \"x\"]\ntextconv = x\n", "diff.x.textconv"),
        ("[diff \"x\"]\ncommand = x\n", "diff.x.command"),
        ("[diff.X]\ncommand = x\n", "diff.x.command"),
        ("[filter \"bat\"]\nclean = x\n", "filter.bat.clean"),
        ("[filter \"bat\"]\nprocess = x\n", "filter.bat.process"),
        ("[filter \"lfs\"]\nrequired = false\n", "filter.lfs.required"),
        ("[merge \"x\"]\ndriver = x\n", "merge.x.driver"),
        ("[merge]\ndefault = x\n", "merge.default"),
        ("[merge]\ntool = x\n", "merge.tool"),
        ("[mergetool \"x\"]\ncmd = x\n", "mergetool.x.cmd"),
        ("[difftool]\nprompt = false\n", "difftool.prompt"),
        ("[alias]\nst = !x\n", "alias.st"),
        ("[alias]\nst = status\n", "alias.st"),
        ("[pager]\nlog = x\n", "pager.log"),
        ("[sequence]\neditor = x\n", "sequence.editor"),
        ("[interactive]\ndiffFilter = x\n", "interactive.difffilter"),
        ("[include]\npath = ../x\n", "include.path"),
        ("[includeIf \"gitdir:/\"]\npath = x\n", "includeif.gitdir:/.path"),
        ("[credential]\nhelper = !x\n", "credential.helper"),
        ("[credential]\nhelper = \n", "credential.helper"),
        ("[credential \"https://a\"]\nhelper = x\n", "credential.https://a.helper"),
        ("[gpg]\nprogram = x\n", "gpg.program"),
        ("[gpg \"ssh\"]\ndefaultKeyCommand = x\n", "gpg.ssh.defaultkeycommand"),
        ("[user]\nsigningKey = x\n", "user.signingkey"),
        ("[commit]\ngpgSign = true\n", "commit.gpgsign"),
        ("[commit]\ntemplate = /etc/passwd\n", "commit.template"),
        ("[log]\nshowSignature = true\n", "log.showsignature"),
        ("[init]\ntemplateDir = x\n", "init.templatedir"),
        ("[trailer \"x\"]\ncmd = x\n", "trailer.x.cmd"),
        ("[tar \"x\"]\ncommand = x\n", "tar.x.command"),
        ("[uploadpack]\npackObjectsHook = x\n", "uploadpack.packobjectshook"),
        ("[receive]\ndenyCurrentBranch = updateInstead\n", "receive.denycurrentbranch"),
        ("[gc]\nrecentObjectsHook = x\n", "gc.recentobjectshook"),
        ("[gc]\npruneExpire = now\n", "gc.pruneexpire"),
        ("[hook \"x\"]\ncommand = x\n", "hook.x.command"),
        ("[sendemail]\nsmtpServer = /x\n", "sendemail.smtpserver"),
        ("[protocol \"ext\"]\nallow = always\n", "protocol.ext.allow"),
        ("[safe]\ndirectory = *\n", "safe.directory"),
        ("[http]\nproxy = http://evil\n", "http.proxy"),
        ("[url \"ext::x\"]\ninsteadOf = https://example.org/\n", "url.ext::x.insteadof"),
        ("[url \"x\"]\npushInsteadOf = https://example.org/\n", "url.x.pushinsteadof"),
        ("[rebase]\ninstructionFormat = %s%nexec x\n", "rebase.instructionformat"),
        ("[help]\nautoCorrect = immediate\n", "help.autocorrect"),
        ("[pull]\ntwohead = evil\n", "pull.twohead"),
        ("[lfs \"customtransfer.x\"]\npath = x\n", "lfs.customtransfer.x.path"),
        ("[lfs]\nurl = https://evil\n", "lfs.url"),
        ("[blame]\nignoreRevsFile = ../../x\n", "blame.ignorerevsfile"),
        ("[nonsense]\nx = y\n", "nonsense.x"),
        // Addresses and remotes.
        ("[remote \"origin\"]\npushurl = https://evil\n", "remote.origin.pushurl"),
        ("[remote \"origin\"]\nurl = https://evil/x\n", "remote.origin.url"),
        ("[remote \"origin\"]\nurl = https://example.org/a.git\n", "remote.origin.url"),
        ("[remote \"origin\"]\nuploadpack = x\n", "remote.origin.uploadpack"),
        ("[remote \"origin\"]\nreceivepack = x\n", "remote.origin.receivepack"),
        ("[remote \"origin\"]\nvcs = x\n", "remote.origin.vcs"),
        ("[remote \"origin\"]\nproxy = x\n", "remote.origin.proxy"),
        ("[remote \"origin\"]\nmirror = true\n", "remote.origin.mirror"),
        ("[remote \"origin\"]\npush = +refs/heads/*:refs/heads/x\n", "remote.origin.push"),
        ("[remote \"origin\"]\nfetch = +refs/heads/*:refs/heads/*\n", "remote.origin.fetch"),
        ("[remote \"e\"]\nurl = \"ext::sh -c touch% x\"\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = foo://x/y\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = ../elsewhere\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = file:///elsewhere\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = file:///inside/%2e%2e/x\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = ssh://-oProxyCommand=x/y\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = \"ssh://%2DoProxyCommand=x@h/y\"\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = -oProxyCommand=x:y\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = a@-oProxyCommand=x:y\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = [-oProxyCommand=x]:y\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = host:-x\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = --upload-pack=x\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = \"https://h/x\\nhost=evil\"\n", "remote.e.url"),
        ("[remote \"e\"]\nurl = https://h/x%0ahost=evil\n", "remote.e.url"),
        ("[remote \"e\"]\nurl\n", "remote.e.url"),
        ("[remote \"e\"]\nurl =\n", "remote.e.url"),
        ("[remote \"--upload-pack=x\"]\nurl = https://h/x\n", "remote.--upload-pack=x.url"),
        ("[remote \"../x\"]\nurl = https://h/x\n", "remote.../x.url"),
        ("[remote \"https://github.com/a/b\"]\nurl = https://evil/x\n", "remote.https://github.com/a/b.url"),
        ("[remote \"e\"]\nurl = ../inside\npromisor = true\n", "remote.e.promisor"),
        ("[extensions]\npartialClone = none-such\n", "extensions.partialclone"),
        ("[branch \"main\"]\nremote = ../x\n", "branch.main.remote"),
        ("[branch \"main\"]\nremote = https://evil/x\n", "branch.main.remote"),
        ("[remote \"e\"]\nurl = https://evil/x\n[branch \"main\"]\nremote = e\n", "branch.main.remote"),
        ("[remote \"e\"]\nurl = https://evil/x\n[branch \"topic\"]\npushRemote = e\n", "branch.topic.pushremote"),
        ("[remote \"e\"]\nurl = https://evil/x\n[remote]\npushDefault = e\n", "remote.pushdefault"),
        // A remote without an address is a path for git.
        ("[remote \"planted\"]\nprune = true\n[branch \"topic\"]\nremote = planted\n", "branch.topic.remote"),
        ("[branch \"main\"]\nmergeOptions = -s x\n", "branch.main.mergeoptions"),
        ("[branch \"x\"]\nmerge = -x\n", "branch.x.merge"),
        ("[branch \"x\"]\ndescription = \"a\\bb\"\n", "branch.x.description"),
        ("[submodule \"x\"]\nupdate = !x\n", "submodule.x.update"),
        ("[submodule \"../../x\"]\nurl = https://h/x\n", "submodule.../../x.url"),
        ("[submodule \"x\"]\nurl = ext::x\n", "submodule.x.url"),
        ("[user]\nname = \"a\\nb\"\n", "user.name"),
        ("[gc]\nauto = x\n", "gc.auto"),
    ];
    for (more, key) in attacks {
        refused(REPOSITORY, &with(more), key);
        // Where to put it does not matter either.
        let first = format!("{more}{REPOSITORY}");
        assert!(judge(REPOSITORY, &first).is_err(), "accepted at the beginning: {more}");
    }
}

#[test]
fn what_was_there_may_not_be_taken_away_changed_or_reordered() {
    let without = |text: &str| {
        assert!(REPOSITORY.contains(text), "{text}");
        REPOSITORY.replacen(text, "", 1)
    };
    refused(REPOSITORY, &without("\thooksPath = .husky\n"), "core.hookspath");
    refused(REPOSITORY, &REPOSITORY.replace(".husky", "evil"), "core.hookspath");
    refused(REPOSITORY, &without("\thelper = \n"), "credential.helper");
    refused(
        REPOSITORY,
        &without("\turl = https://example.org/a.git\n"),
        "remote.origin.url",
    );
    refused(
        REPOSITORY,
        &without("\tpushurl = ssh://git@example.org/me/a.git\n"),
        "remote.fork.pushurl",
    );
    refused(
        REPOSITORY,
        &REPOSITORY.replace("example.org/a.git", "evil/a.git"),
        "remote.origin.url",
    );
    refused(
        REPOSITORY,
        &without("\tmergeOptions = --no-ff\n"),
        "branch.main.mergeoptions",
    );
    let reset_last = REPOSITORY.replace("\thelper = \n\thelper = store\n", "\thelper = store\n\thelper = \n");
    refused(REPOSITORY, &reset_last, "credential.helper");
    // The last one wins: no second value before or after one that is set.
    for old in ["[core]\nfsmonitor = x\n", "[core]\nfsmonitor = false\n"] {
        refused(old, "", "core.fsmonitor");
        refused(old, &format!("{old}fsmonitor = \n"), "core.fsmonitor");
    }
    refused(
        "[extensions]\npreciousObjects = true\n",
        "",
        "extensions.preciousobjects",
    );
    refused("[extensions]\nworktreeConfig = true\n", "", "extensions.worktreeconfig");
    refused("[core]\nworktree = /home\n", "", "core.worktree");
    refused(
        "[commit]\ngpgSign = true\n",
        "[commit]\ngpgSign = false\n",
        "commit.gpgsign",
    );
    refused(
        "[submodule \"a\"]\nurl = https://h/x\nactive = true\n",
        "[submodule \"a\"]\nactive = true\n",
        "submodule.a.url",
    );
}

#[test]
fn remotes_and_branches_come_go_and_are_renamed_as_a_whole() {
    let section = |name: &str| {
        let from = REPOSITORY.find(name).expect("a section of the example");
        let to = REPOSITORY[from + 1..].find("\n[").expect("a section after it") + from + 2;
        (from, to)
    };
    let (from, to) = section("[remote \"fork\"]");
    let removed = format!("{}{}", &REPOSITORY[..from], &REPOSITORY[to..]);
    accepted(REPOSITORY, &removed);
    let renamed = REPOSITORY.replace("\"fork\"", "\"mine\"");
    accepted(REPOSITORY, &renamed);
    accepted(REPOSITORY, &renamed.replace("remotes/fork", "remotes/mine"));
    // What a rename carries along stays as it was.
    refused(
        REPOSITORY,
        &renamed.replace("me/a.git\n\tpushurl", "evil/a.git\n\tpushurl"),
        "remote.mine.pushurl",
    );
    refused(
        REPOSITORY,
        &format!("{renamed}[remote \"mine\"]\n\tproxy = x\n"),
        "remote.mine.pushurl",
    );
    // git remote rename changes the section first and the branch afterwards.
    let renamed = REPOSITORY.replace("\"origin\"", "\"up\"");
    accepted(REPOSITORY, &renamed);
    accepted(&renamed, &renamed.replace("remote = origin", "remote = up"));
    accepted(REPOSITORY, &renamed.replace("remote = origin", "remote = up"));
    // git clone --mirror: the refspec first.
    let mirror = "[remote \"m\"]\nurl = https://h/x\nfetch = +refs/*:refs/*\n";
    accepted(mirror, &format!("{mirror}mirror = true\n"));
    // Another remote under the old name is no rename, and no new one.
    let (from, to) = section("[remote \"origin\"]");
    let moved = format!(
        "{}[remote \"up\"]\n\turl = https://example.org/a.git\n",
        &REPOSITORY[..from]
    );
    let hijacked = format!(
        "{moved}[remote \"origin\"]\n\turl = https://evil/a.git\n{}",
        &REPOSITORY[to..]
    );
    refused(REPOSITORY, &hijacked, "remote.origin.url");
    // A removed remote may not be left as a name that git takes for a path.
    refused(
        REPOSITORY,
        &format!("{}{}", &REPOSITORY[..from], &REPOSITORY[to..]),
        "branch.main.remote",
    );
    let (from, to) = section("[branch \"main\"]");
    accepted(REPOSITORY, &format!("{}{}", &REPOSITORY[..from], &REPOSITORY[to..]));
    accepted(
        REPOSITORY,
        &REPOSITORY.replace("[branch \"main\"]", "[branch \"trunk\"]"),
    );
    // Between remotes of before, a branch may change.
    accepted(REPOSITORY, &REPOSITORY.replace("remote = origin", "remote = fork"));
    accepted("[submodule \"x\"]\nurl = https://h/x\nupdate = !x\n", "");
}

#[test]
fn changes_that_are_harmless_one_by_one_are_judged_in_sum() {
    let place = Place {
        worktree_allowed: &|_| false,
        worktree_was_its_own: &|_| false,
        made_here: false,
        bare_allowed: true,
        local_url_allowed: &|_| false,
    };
    let run = |start: &str, new: &str| {
        check_run(Some(start.as_bytes()), new.as_bytes(), &place).map_err(|refused| refused.key)
    };
    let start = "[remote \"origin\"]\nurl = https://h/x\n[branch \"main\"]\nremote = origin\n";
    let hijack = ["", "[remote \"origin\"]\nurl = https://evil/x\n"];
    accepted(start, hijack[0]);
    accepted(hijack[0], hijack[1]);
    assert_eq!(run(start, hijack[1]), Err("remote.origin.url".to_owned()));
    let other = format!(
        "{}[remote \"e\"]\nurl = https://evil/x\n",
        start.replace("remote = origin\n", "rebase = true\n")
    );
    let hijack = format!("{other}[branch \"main\"]\nremote = e\n");
    accepted(start, &other);
    accepted(&other, &hijack);
    assert_eq!(run(start, &hijack), Err("branch.main.remote".to_owned()));
    // A name that is free again is anybody's in the next run.
    let fork = "[remote \"fork\"]\nurl = https://h/y\n";
    let both = format!("{start}{fork}");
    accepted(&both, start);
    assert_eq!(run(&both, start), Err("remote.fork.url".to_owned()));
    assert_eq!(
        run(&both, &format!("{start}{}", fork.replace("fork", "mine"))),
        Err("remote.fork.url".to_owned())
    );
    assert_eq!(run(start, &both), Ok(()));
    assert_eq!(
        run("[remote \"x\"]\nfetch = +refs/heads/*:refs/remotes/x/*\n", ""),
        Ok(())
    );
    // git remote rename of what the run itself added, between its first and its second change.
    let added = "[remote \"a\"]\nurl = https://h/x\n[branch \"main\"]\nremote = a\n";
    let half = added.replace("\"a\"", "\"b\"");
    accepted("", added);
    accepted(added, &half);
    assert_eq!(run("", &half), Ok(()));
}

#[test]
fn harmless_additions_are_accepted() {
    for more in [
        "[core]\nfsmonitor = false\nautocrlf = input\nworktree = ../../inside\n",
        "[commit]\ngpgsign = false\n[tag]\ngpgsign = false\n",
        "[user]\nname = J\u{f6}rg \"O'Neil\"\nemail = a@b\n",
        "[remote \"e\"]\nurl = ../inside/x\nfetch = +refs/heads/*:refs/remotes/e/*\n",
        "[remote \"e\"]\nurl = file:///inside/x\n",
        "[remote \"e\"]\nurl = ssh://git@[::1]:2222/x.git\n",
        "[remote \"e\"]\nurl = https://user:to%40ken@host:8443/x%20y.git\n",
        "[remote \"e\"]\nurl = git@host.example:group/x.git\n[branch \"topic\"]\nremote = e\nmerge = refs/heads/topic\n",
        "[remote \"e\"]\nurl = https://h/x\npromisor = true\npartialclonefilter = blob:none\n[extensions]\npartialClone = e\n",
        "[remote \"e\"]\nurl = https://h/x\nmirror = true\nfetch = +refs/*:refs/*\n",
        "[branch \"topic\"]\nremote = .\nmerge = refs/heads/main\nvscode-merge-base = origin/main\nrebase = merges\n",
        "[branch \"topic\"]\npushRemote = fork\n[remote]\npushDefault = fork\n[remote \"origin\"]\ngh-resolved = base\n",
        "[lfs]\nrepositoryformatversion = 0\n[lfs \"https://h/x.git/info/lfs\"]\nlocksverify = true\n",
        "[extensions]\nworktreeConfig = true\nobjectFormat = sha1\n[core]\nsparseCheckout\nsparseCheckoutCone = true\n",
        "[color]\nui = auto\n[color \"diff\"]\nold = \"red bold #ff0000\"\n[branch]\nsort = -committerdate\n",
        "; a remark\n[blame]\nignoreRevsFile = .git-blame-ignore-revs\n",
    ] {
        accepted(REPOSITORY, &with(more));
    }
    // An unknown variable of the user's stays where it is when others change.
    accepted(
        "[x]\ny = z\n[pull]\nrebase = false\n",
        "[pull]\nrebase = true\n[x]\ny = z\n",
    );
}

#[test]
fn a_file_that_git_cannot_read_is_refused() {
    for bad in [
        "[core",
        "[core]\n= x\n",
        "[a \"b]\nc = d\n",
        "[a]\nb = \"c\n",
        "[a]\nb = \\q\n",
        "\u{feff}\u{feff}[a]\n",
    ] {
        refused("", bad, "config");
        assert!(judge(bad, "").is_err());
    }
    let error = judge("", "[user]\nname = a\0b\n").expect_err("NUL");
    assert_eq!(
        error.to_string(),
        "config: the new configuration cannot be read: line 2 holds a NUL byte"
    );
    refused("", &"#".repeat((1 << 20) + 1), "config");
    accepted("", &"#".repeat(1 << 20));
    refused("", &format!("[gc]\n{}", "auto=0\n".repeat(16_385)), "config");
    accepted("", &format!("[gc]\n{}", "auto=0\n".repeat(16_384)));
    // A name cannot steer the terminal that shows it.
    refused("", "[a \"\x1b[31m\"]\nb = c\n", "a.?[31m.b");
}

#[test]
fn values_that_name_programs_are_listed_with_their_keys() {
    let config = "[core]\nhooksPath = .husky\nfsmonitor = true\neditor = vim\n[alias]\na = !./x.sh\nb = log\n\
        [pager]\nlog = false\ndiff = ./p\n[filter \"X\"]\nclean = ./c %f\nrequired = true\n[include]\npath = ../.gitconfig\n\
        [remote \"e\"]\nurl = ext::./run\n[remote \"o\"]\nurl = ssh://[::1]/x\n[submodule \"s\"]\nupdate = !./u\n\
        [credential]\nhelper =\nhelper = !./h\n[diff \"d\"]\ntextconv = ./t\n[broken\n";
    let found = programs(config.as_bytes());
    let found: Vec<_> = found
        .iter()
        .map(|(key, value)| (key.as_str(), std::str::from_utf8(value).unwrap()))
        .collect();
    #[rustfmt::skip]
    assert_eq!(found, [
        ("core.hookspath", ".husky"), ("core.editor", "vim"), ("alias.a", "!./x.sh"), ("pager.diff", "./p"),
        ("filter.X.clean", "./c %f"), ("include.path", "../.gitconfig"), ("remote.e.url", "ext::./run"),
        ("submodule.s.update", "!./u"), ("credential.helper", "!./h"), ("diff.d.textconv", "./t"),
    ]);
    assert_eq!(programs(b""), []);
}
