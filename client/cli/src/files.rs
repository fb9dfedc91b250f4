//! `fumehood files`: what a command could do to files, without a command.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fumehood_client::proto::v1::{FileInfo, FileKind};
use fumehood_client::{Error, FileReader, Files, FilesView};

use crate::args::{FilesCommand, ViewArgs};
use crate::failure::{Failure, chain};
use crate::ids::resolve_session;
use crate::listing::existing;
use crate::render;
use crate::start::{self, Connected};
use crate::{json, print, request, table, tell};

/// The exit code where something is wrong with a file.
const EXIT_FILE: u8 = 1;

/// Entries that are asked for, and shown, at once.
const PAGE: u32 = 1000;

/// What `fumehood files` is asked to do.
pub async fn run(command: FilesCommand) -> Result<u8, Failure> {
    match command {
        FilesCommand::Stat {
            paths,
            no_follow,
            json,
            view,
        } => {
            let files = connect(&view).await?;
            each(&paths, async |path| {
                let file = match no_follow {
                    true => files.stat_link(path).await?,
                    false => files.stat(path).await?,
                };
                print(&if json {
                    format!("{}\n", json::file(Some(path.as_os_str().as_bytes()), &file))
                } else {
                    shown(path, &file).join("\n") + "\n"
                })
            })
            .await
        }
        FilesCommand::Ls { path, long, json, view } => {
            let files = connect(&view).await?;
            each(&[path], async |path| list(&files, path, long, json).await).await
        }
        FilesCommand::Cat {
            paths,
            offset,
            length,
            view,
        } => {
            let files = connect(&view).await?;
            each(&paths, async |path| {
                copy_out(files.open_at(path, offset, length).await?).await
            })
            .await
        }
        FilesCommand::Write {
            path,
            create,
            append,
            mode,
            parents,
            sync,
            json,
            view,
        } => {
            let files = connect(&view).await?;
            each(&[path], async |path| {
                let mut writing = files.writer(path);
                writing = match (create, append) {
                    (true, _) => writing.create_new(),
                    (_, true) => writing.append(),
                    _ => writing,
                };
                writing = if parents { writing.parents() } else { writing };
                writing = if sync { writing.sync() } else { writing };
                if let Some(mode) = mode {
                    writing = writing.permissions(mode);
                }
                let written = writing.copy_from(&mut tokio::io::stdin()).await?;
                match (json, &written.file) {
                    (true, Some(file)) => {
                        let mut value = json::file(Some(path.as_os_str().as_bytes()), file);
                        value["created"] = written.created.into();
                        print(&format!("{value}\n"))
                    }
                    _ => Ok(()),
                }
            })
            .await
        }
        FilesCommand::Mkdir {
            paths,
            parents,
            mode,
            view,
        } => {
            let files = connect(&view).await?;
            each(&paths, async |path| {
                files.make(path, mode, parents).await?;
                Ok(())
            })
            .await
        }
        FilesCommand::Rm { paths, recursive, view } => {
            let files = connect(&view).await?;
            each(&paths, async |path| {
                match recursive {
                    true => drop(files.remove_all(path).await?),
                    false => files.remove(path).await?,
                }
                Ok(())
            })
            .await
        }
        FilesCommand::Mv {
            from,
            to,
            no_clobber,
            view,
        } => {
            let files = connect(&view).await?;
            each(&[from], async |from| {
                match no_clobber {
                    true => files.rename_new(from, &to).await?,
                    false => files.rename(from, &to).await?,
                }
                Ok(())
            })
            .await
        }
    }
}

/// Does something with each path; what is wrong with one is told, and the others have their turn.
async fn each(paths: &[PathBuf], act: impl AsyncFn(&Path) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut code = 0;
    for path in paths {
        match act(path).await {
            Ok(()) => {}
            Err(failure @ Failure::Call(Error::File(_))) => {
                tell(&chain(&failure));
                code = EXIT_FILE;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(code)
}

/// The files that are meant. A session's daemon is there or the session is not; for anything else one is started.
async fn connect(view: &ViewArgs) -> Result<Files, Failure> {
    if let Some(wanted) = &view.session {
        let client = existing(&view.connect).await?;
        let id = resolve_session(&client, wanted).await?;
        return Ok(client.files(FilesView::session(id)));
    }
    let directory = match &view.workspace {
        Some(workspace) => workspace.clone(),
        None => std::env::current_dir().map_err(Failure::CurrentDirectory)?,
    };
    let mut seen = FilesView::workspace(directory);
    if let Some(policy) = &view.policy {
        seen = seen.policy_reference(request::policy(policy)?);
    }
    let Connected { client, .. } = start::connect(&view.connect).await?;
    Ok(client.files(seen))
}

async fn copy_out(mut reader: FileReader) -> Result<(), Failure> {
    let failed = |source: io::Error| Failure::Output {
        stream: "output",
        source,
    };
    while let Some(data) = reader.next().await? {
        io::stdout().lock().write_all(&data).map_err(failed)?;
    }
    io::stdout().lock().flush().map_err(failed)
}

/// A page at a time, so that a directory of any size takes the same memory.
async fn list(files: &Files, path: &Path, long: bool, as_json: bool) -> Result<(), Failure> {
    let mut token = bytes::Bytes::new();
    loop {
        let page = files.list_page(path, PAGE, token).await?;
        let entries = &page.entries;
        let lines: Vec<_> = match (as_json, long) {
            (true, _) => entries
                .iter()
                .map(|entry| json::file(None, entry).to_string())
                .collect(),
            (false, true) => table::lines(&entries.iter().map(row).collect::<Vec<_>>()),
            (false, false) => entries.iter().map(|entry| render::path(&entry.name)).collect(),
        };
        if !lines.is_empty() {
            print(&(lines.join("\n") + "\n"))?;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}

/// `-rw-r--r--`.
fn permissions(file: &FileInfo) -> String {
    let kind = match file.kind() {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other | FileKind::Unspecified => '?',
    };
    let bit = |bit: u32| file.mode & bit != 0;
    let mut text = String::from(kind);
    for (shift, special, word) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        text.push(if bit(4 << shift) { 'r' } else { '-' });
        text.push(if bit(2 << shift) { 'w' } else { '-' });
        text.push(match (bit(special), bit(1 << shift)) {
            (true, true) => word,
            (true, false) => word.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn name(file: &FileInfo) -> String {
    match file.kind() {
        FileKind::Symlink => format!("{} -> {}", render::path(&file.name), render::path(&file.link_target)),
        _ => render::path(&file.name),
    }
}

fn modified(file: &FileInfo) -> String {
    let at = file.modified_at.as_ref().map(ToString::to_string).unwrap_or_default();
    // To the second.
    match at.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => at,
    }
}

fn row(file: &FileInfo) -> Vec<String> {
    vec![
        permissions(file),
        file.links.to_string(),
        format!("{}:{}", file.uid, file.gid),
        file.size.to_string(),
        modified(file),
        name(file),
    ]
}

/// A file for people.
fn shown(path: &Path, file: &FileInfo) -> Vec<String> {
    let kind = match file.kind() {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Other | FileKind::Unspecified => "pipe, socket or device",
    };
    let mut facts = vec![
        ("path", render::path(path.as_os_str().as_bytes())),
        ("kind", kind.to_owned()),
    ];
    if file.kind() == FileKind::Symlink {
        facts.push(("leads to", render::path(&file.link_target)));
    }
    facts.extend([
        ("size", file.size.to_string()),
        ("permissions", format!("{:04o} {}", file.mode, permissions(file))),
        ("owner", format!("{}:{}", file.uid, file.gid)),
        ("modified", modified(file)),
        (
            "inode",
            format!("{} on device {}, {} names", file.inode, file.device, file.links),
        ),
    ]);
    let rows: Vec<_> = facts
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    table::lines(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_shown_as_ls_does() {
        let file = FileInfo {
            name: "x\x1b".into(),
            kind: FileKind::Symlink.into(),
            mode: 0o5754,
            link_target: "y".into(),
            modified_at: Some(prost_types::Timestamp { seconds: 0, nanos: 5 }),
            ..FileInfo::default()
        };
        assert_eq!(permissions(&file), "lrwsr-xr-T");
        let row = row(&file).join(" ");
        assert!(
            row.contains(" 1970-01-01T00:00:00Z ") && row.ends_with(" -> y"),
            "{row}"
        );
        assert!(!row.contains('\x1b'));
        assert!(shown(Path::new("x"), &file)[0].starts_with("path"));
    }
}
