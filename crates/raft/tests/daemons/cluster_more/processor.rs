//! The processor time that processes took, from Linux's `/proc`.

use std::time::Duration;

/// The unit of the times in `/proc/PID/stat`: the kernel tells them in hundredths of a second,
/// whatever its own clock ticks at.
const TICK: Duration = Duration::from_millis(10);

/// What the process has used so far, all threads, user and system together. None: it is gone, or
/// this system has no `/proc`.
pub fn time_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // utime and stime are the fields 14 and 15; the third is the first behind the name.
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}
