//! Which addresses a remote or a submodule may be given.
//!
//! Git takes an address apart by rules of its own (`transport.c`, `connect.c`): `name::rest` and `name://rest` with a name
//! it does not know run the program `git-remote-name`, of which `ext::` runs any command. So the accepted forms are few
//! and complete, and everything else is refused.

/// What an accepted address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address<'a> {
    /// Another machine, by http, https, ssh or git.
    Network,
    /// This machine: the path as written, or the whole `file:///...`.
    Local(&'a [u8]),
}

/// Reads an address, or says what is wrong with it.
pub(super) fn read(url: &[u8]) -> Result<Address<'_>, &'static str> {
    if url.is_empty() {
        return Err("an empty address takes away the others");
    }
    if url.len() > 2048 || url.iter().any(|&b| b < 0x20 || b == 0x7f) {
        return Err("the address is too long or holds control characters");
    }
    if url[0] == b'-' {
        return Err("an address that begins with '-' is read as an option");
    }
    if runs_helper(url) {
        return Err("git runs a remote helper program for this kind of address");
    }
    let scheme = scheme_len(url);
    if url[scheme..].starts_with(b"://") {
        return match &url[..scheme] {
            b"http" | b"https" => web(&url[scheme + 3..]),
            b"file" => file(url),
            _ => server(&url[scheme + 3..]),
        };
    }
    // `url_is_local_not_ssh`: no colon, or a slash before the first one.
    let colon = url.iter().position(|&b| b == b':');
    let slash = url.iter().position(|&b| b == b'/');
    match (colon, slash) {
        (None, _) => Ok(Address::Local(url)),
        (Some(colon), Some(slash)) if slash < colon => Ok(Address::Local(url)),
        (Some(colon), _) => {
            let path = &url[colon + 1..];
            let host_is_good = user_and_host(&url[..colon], false);
            if host_is_good && !path.is_empty() && path[0] != b'-' {
                Ok(Address::Network)
            } else {
                Err(BAD_HOST)
            }
        }
    }
}

/// Whether git starts `git-remote-name` for `name::rest` or `name://rest`, other than its own for http and https.
pub(super) fn runs_helper(url: &[u8]) -> bool {
    let own: [&[u8]; 7] = [b"http", b"https", b"file", b"ssh", b"git", b"git+ssh", b"ssh+git"];
    let (scheme, rest) = url.split_at(scheme_len(url));
    rest.starts_with(b"::") || (rest.starts_with(b"://") && !own.contains(&scheme))
}

fn scheme_len(url: &[u8]) -> usize {
    url.iter()
        .take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
        .count()
}

const BAD_HOST: &str = "the address has no plain host name and path";

fn web(rest: &[u8]) -> Result<Address<'_>, &'static str> {
    let (authority, path) = cut(rest);
    // Git hands host and path to credential helpers line by line.
    let lower = path.to_ascii_lowercase();
    if [b"%0a", b"%0d", b"%00"]
        .iter()
        .any(|&code| lower.windows(3).any(|part| part == code))
    {
        return Err("the address holds an encoded control character");
    }
    if user_and_host_port(authority, true) {
        Ok(Address::Network)
    } else {
        Err(BAD_HOST)
    }
}

fn server(rest: &[u8]) -> Result<Address<'_>, &'static str> {
    let (authority, path) = cut(rest);
    // Git decodes these addresses before it starts ssh; a code could become the '-' of an option.
    if path.starts_with(b"/-") || path.contains(&b'%') {
        return Err("the path of the address is encoded or begins with '-'");
    }
    if path.len() > 1 && user_and_host_port(authority, false) {
        Ok(Address::Network)
    } else {
        Err(BAD_HOST)
    }
}

/// Git decodes `%2e` here too, so that only an address without codes names the path that is written.
fn file(url: &[u8]) -> Result<Address<'_>, &'static str> {
    if url.starts_with(b"file:///") && !url.contains(&b'%') {
        Ok(Address::Local(url))
    } else {
        Err("a file address must be file:///path without '%' codes")
    }
}

fn cut(rest: &[u8]) -> (&[u8], &[u8]) {
    rest.split_at(rest.iter().position(|&b| b == b'/').unwrap_or(rest.len()))
}

fn user_and_host_port(authority: &[u8], password: bool) -> bool {
    let colon = authority.iter().rposition(|&b| b == b':');
    match colon {
        // The colon of a port, not one inside `[::1]` or before a password's '@'.
        Some(colon) if !authority[colon..].iter().any(|b| b"]@".contains(b)) => {
            let port = &authority[colon + 1..];
            port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && user_and_host(&authority[..colon], password)
        }
        _ => user_and_host(authority, password),
    }
}

fn user_and_host(text: &[u8], password: bool) -> bool {
    let (user, host) = match text.iter().position(|&b| b == b'@') {
        Some(at) => (Some(&text[..at]), &text[at + 1..]),
        None => (None, text),
    };
    let user_is_good = user.is_none_or(|user| {
        !user.is_empty()
            && user[0] != b'-'
            && user
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"._-+~".contains(b) || (password && b":%!$*=".contains(b)))
    });
    let bare = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let host_is_good = match bare {
        Some(v6) => v6.len() > 1 && v6.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b)),
        None => {
            !host.is_empty()
                && host[0] != b'-'
                && host
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b) || *b >= 0x80)
        }
    };
    user_is_good && host_is_good
}
