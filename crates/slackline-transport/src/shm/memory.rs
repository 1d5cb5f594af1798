//! How much memory a group may take.

use std::fs;
use std::path::Path;

use crate::TransportError;

/// Refuses a group whose memory, `needed` bytes, is more than this process can get: ranks would be killed in the middle of
/// the work.
pub(crate) fn check(needed: u64) -> Result<(), TransportError> {
    match available(Path::new("/proc"), Path::new("/sys/fs/cgroup")) {
        Some(available) if available < needed => Err(TransportError::Memory { needed, available }),
        _ => Ok(()),
    }
}

/// Bytes that this process can get without swapping: what the machine has, or what the limits of the control groups (of a
/// container) leave, whichever is less.
fn available(proc: &Path, cgroups: &Path) -> Option<u64> {
    let machine = of_machine(&proc.join("meminfo"));
    let groups = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let limited = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.is_empty() {
            of_groups(cgroups, path, &Files::V2)
        } else if controllers.split(',').any(|controller| controller == "memory") {
            of_groups(&cgroups.join("memory"), path, &Files::V1)
        } else {
            None
        }
    });
    machine.into_iter().chain(limited).min()
}

fn of_machine(meminfo: &Path) -> Option<u64> {
    let table = fs::read_to_string(meminfo).ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files of a control group, by the version of the interface.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: memory that counts as used and is given back at need.
    cache: &'static str,
}

impl Files {
    const V1: Files =
        Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", cache: "total_inactive_file " };
    const V2: Files = Files { limit: "memory.max", usage: "memory.current", cache: "inactive_file " };
}

/// What the group at `path` and all above it leave. In a container the path may be that of the host, which is not there: its
/// own group is then the root.
fn of_groups(root: &Path, path: &str, files: &Files) -> Option<u64> {
    let own = root.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root)).chain([root]);
    groups.filter_map(|group| of_group(group, files)).min()
}

fn of_group(group: &Path, files: &Files) -> Option<u64> {
    // Without a limit it says "max", or a number that is more than any machine has.
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, usage) = (number(files.limit)?, number(files.usage)?);
    let table = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache = table.lines().find_map(|line| line.strip_prefix(files.cache)?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_smaller_of_machine_and_limits_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            &[("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1000 kB\n"), ("proc/self/cgroup", "0::/a/b\n")],
        );
        let available = || available(&root.join("proc"), &root.join("sys"));
        assert_eq!(available(), Some(1_024_000), "no limit anywhere");
        write(root, &[("sys/a/b/memory.max", "max\n"), ("sys/a/b/memory.current", "5000\n")]);
        assert_eq!(available(), Some(1_024_000), "no limit");
        // A limit on the group above, of which 300 bytes are used beside 200 of cache.
        let stat = "anon 300\ninactive_file 200\nactive_file 1\n";
        write(root, &[("sys/a/memory.max", "2000\n"), ("sys/a/memory.current", "500\n"), ("sys/a/memory.stat", stat)]);
        assert_eq!(available(), Some(1700));
        // In a container, whose own group is the root of what it sees.
        write(
            root,
            &[("proc/self/cgroup", "0::/not/here\n"), ("sys/memory.max", "900"), ("sys/memory.current", "1000")],
        );
        assert_eq!(available(), Some(0));
        // The older interface.
        write(root, &[("proc/self/cgroup", "12:cpu:/\n7:memory,hugetlb:/c\n0::/none\n"), ("sys/memory.max", "max")]);
        write(root, &[("sys/memory/c/memory.limit_in_bytes", "700"), ("sys/memory/c/memory.usage_in_bytes", "100")]);
        assert_eq!(available(), Some(600));
        write(root, &[("sys/memory/memory.limit_in_bytes", "9223372036854771712")]);
        assert_eq!(available(), Some(600));
    }
}
