//! Which ids a sandbox's user namespace has, as pure plans.
//!
//! Three cases. An ordinary user may map one id, its own, to itself. Root running for an ordinary user maps every id to itself,
//! so that files of others show their owners and chown fails as outside. Root running for root swaps 0 with an
//! ordinary id: inside, the command is that id, its files come out owned by root, and 0 inside is nobody of importance.

use crate::spec::Identity;

/// One line of `uid_map` or `gid_map`: `inside outside count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The contents of both maps, and whether setgroups(2) must be denied first (an unprivileged writer must).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub uid_map: String,
    pub gid_map: String,
    pub deny_setgroups: bool,
}

/// Plans the maps. `own_uids` and `own_gids` are the ranges that exist in the launcher's own user namespace
/// (first and third column of its `/proc/self/{uid,gid}_map`): in a container these may be few.
pub(crate) fn plan(identity: &Identity, privileged: bool, own_uids: &[(u32, u32)], own_gids: &[(u32, u32)]) -> Plan {
    if !privileged {
        let line = |inside, outside| {
            render(&[Range {
                inside,
                outside,
                count: 1,
            }])
        };
        return Plan {
            uid_map: line(identity.inside_uid, identity.outside_uid),
            gid_map: line(identity.inside_gid, identity.outside_gid),
            deny_setgroups: true,
        };
    }
    Plan {
        uid_map: render(&permutation(own_uids, identity.inside_uid, identity.outside_uid)),
        gid_map: render(&permutation(own_gids, identity.inside_gid, identity.outside_gid)),
        deny_setgroups: false,
    }
}

/// Identity over `ranges`, except that `inside` and `outside` are exchanged.
fn permutation(ranges: &[(u32, u32)], inside: u32, outside: u32) -> Vec<Range> {
    let mut result = Vec::new();
    for &(first, count) in ranges {
        let end = u64::from(first) + u64::from(count);
        let mut next = u64::from(first);
        let mut cuts = [inside.min(outside), inside.max(outside)];
        if inside == outside {
            cuts[1] = cuts[0];
        }
        for cut in cuts.map(u64::from) {
            if cut < next || cut >= end {
                continue;
            }
            if cut > next {
                result.push(Range {
                    inside: next as u32,
                    outside: next as u32,
                    count: (cut - next) as u32,
                });
            }
            let other = if cut == u64::from(inside) { outside } else { inside };
            result.push(Range {
                inside: cut as u32,
                outside: other,
                count: 1,
            });
            next = cut + 1;
        }
        if next < end {
            result.push(Range {
                inside: next as u32,
                outside: next as u32,
                count: (end - next) as u32,
            });
        }
    }
    result
}

fn render(ranges: &[Range]) -> String {
    ranges
        .iter()
        .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
        .collect()
}

/// First and third column of a `uid_map`.
pub(crate) fn parse_own(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split_ascii_whitespace().map(|column| column.parse::<u32>());
            match (columns.next(), columns.next(), columns.next()) {
                (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => Some((first, count)),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[(u32, u32)] = &[(0, u32::MAX)];

    fn identity(outside: u32, inside: u32) -> Identity {
        Identity {
            outside_uid: outside,
            outside_gid: outside,
            inside_uid: inside,
            inside_gid: inside,
        }
    }

    #[test]
    fn an_ordinary_user_maps_its_own_id_only() {
        let plan = plan(&identity(1001, 1001), false, ALL, ALL);
        assert_eq!(plan.uid_map, "1001 1001 1\n");
        assert!(plan.deny_setgroups);
    }

    #[test]
    fn root_for_an_ordinary_user_maps_every_id_to_itself() {
        let plan = plan(&identity(1001, 1001), true, ALL, ALL);
        assert_eq!(plan.uid_map, "0 0 1001\n1001 1001 1\n1002 1002 4294966293\n");
        assert!(!plan.deny_setgroups);
    }

    #[test]
    fn root_for_root_exchanges_zero_with_the_inside_id() {
        let plan = plan(&identity(0, 1000), true, ALL, ALL);
        assert_eq!(plan.uid_map, "0 1000 1\n1 1 999\n1000 0 1\n1001 1001 4294966294\n");
    }

    #[test]
    fn ids_that_the_launcher_lacks_are_left_out() {
        let plan = plan(&identity(0, 1000), true, &[(0, 65536)], &[(0, 65536)]);
        assert_eq!(plan.gid_map, "0 1000 1\n1 1 999\n1000 0 1\n1001 1001 64535\n");
    }

    #[test]
    fn the_kernels_own_map_is_read() {
        assert_eq!(parse_own("         0          0 4294967295\n"), vec![(0, u32::MAX)]);
        assert_eq!(parse_own("0 100000 65536\n65536 1 2\n"), vec![(0, 65536), (65536, 2)]);
    }
}
