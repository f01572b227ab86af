//! What disks do wrong: they hang, fill up, fail, decay, are lost, or go back in time.

use raft_disk::Disk;
use raft_disk::sim::{Fault, Operation};

use super::{Chore, Kind};
use crate::run::{Image, Run};
use crate::world::{Address, Micros};

impl Run<'_> {
    pub(super) fn make_on_disk(&mut self, kind: Kind, at: Address) -> bool {
        match kind {
            Kind::DiskStall => {
                let time = self.dice.between(200, 6_000) * 1_000;
                self.stall(at, time);
                true
            }
            Kind::DiskFull => {
                let more = self.dice.below(3_000);
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    let used = server.parts.disk.used();
                    server.parts.disk.set_capacity(Some(used + more));
                }
                let wait = self.dice.between(500, 6_000) * 1_000;
                self.later(wait, Chore::RoomAgain(at));
                true
            }
            Kind::DiskError => {
                let operations = [
                    Operation::Write,
                    Operation::Sync,
                    Operation::Create,
                    Operation::Rename,
                    Operation::SyncDir,
                ];
                let operation = self.dice.pick(&operations).copied();
                let fault = Fault {
                    operation: operation.unwrap_or(Operation::Sync),
                    after: self.dice.below(4),
                    error: std::io::ErrorKind::Other,
                    written: usize::try_from(self.dice.below(300)).unwrap_or(0),
                };
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.disk.inject(fault);
                }
                true
            }
            Kind::BitFlip => self.flip(at),
            Kind::Wipe => {
                if !self.may_lose(at) {
                    return false;
                }
                if self.world.is_up(at) {
                    self.lose_power(at);
                }
                self.begin_anew(at);
                true
            }
            Kind::LogLost => self.lose_log(at),
            Kind::RollBack => self.roll_back(at),
            _ => false,
        }
    }

    /// Flips a bit where it will be noticed: in a segment that has a successor, in the newest one below what a
    /// later batch vouches for, or in a snapshot. (In the very last batch it would look like a torn tail, which
    /// nobody can tell apart.) A log so damaged is repaired (D6), and nothing that it promised is excused.
    fn flip(&mut self, at: Address) -> bool {
        if !self.may_lose(at) {
            return false;
        }
        let Some(server) = self.world.node(at).server() else {
            return false;
        };
        let disk = server.parts.disk.clone();
        let names = Disk::list(&disk).unwrap_or_default();
        let newest = names.iter().filter(|name| is_segment(name)).max();
        let whole = |name: &String| {
            let bytes = disk.contents(name).unwrap_or_default();
            let last = bytes.iter().rposition(|byte| *byte != 0);
            (name.clone(), 0..last.map_or(1, |last| last as u64))
        };
        let mut targets: Vec<(String, std::ops::Range<u64>)> = names
            .iter()
            .filter(|name| is_snapshot(name) || (is_segment(name) && Some(*name) != newest))
            .map(whole)
            .collect();
        targets.extend(server.vouched().filter(|(_, range)| !range.is_empty()));
        let Some((name, range)) = self.dice.pick(&targets).cloned() else {
            return false;
        };
        let offset = range.start + self.dice.below((range.end - range.start).max(1));
        self.flip_at(at, &name, offset);
        true
    }

    pub(crate) fn flip_at(&mut self, at: Address, name: &str, offset: u64) {
        let bit = u8::try_from(self.dice.below(8)).unwrap_or(0);
        if let Some(server) = self.world.node(at).server() {
            server.parts.disk.flip(name, offset, bit);
        }
        self.say(at, || format!("bit {bit} of byte {offset} of {name}"));
        if is_snapshot(name) {
            return self.doom(at);
        }
        let Some(id) = self.id(at) else { return };
        self.checker.damage(id);
        // Alone of its kind it is repaired, and the node may promise again.
        if self.doomed.insert(id) {
            self.wounded.insert(id);
        }
    }

    /// The log is gone, and the identity is not: the node must not start (D5).
    fn lose_log(&mut self, at: Address) -> bool {
        let bound = self
            .world
            .node(at)
            .server()
            .is_some_and(|server| server.cluster().is_some());
        if !bound || !self.may_lose(at) {
            return false;
        }
        self.lose_power(at);
        if let Some(server) = self.world.node(at).server() {
            let disk = &server.parts.disk;
            for name in Disk::list(disk).unwrap_or_default() {
                if is_segment(&name) {
                    let _ = disk.remove(&name);
                }
            }
            let _ = disk.sync_dir();
        }
        if let Some(id) = self.id(at) {
            self.doomed.insert(id);
            self.wounded.remove(&id);
        }
        true
    }

    pub(super) fn make_image(&mut self) {
        let wait = self.dice.between(1_000, 8_000) * 1_000;
        self.later(wait, Chore::Image);
        let at = self.victim();
        if let Some(image) = self.image_of(at) {
            self.images.insert(at, image);
        }
    }

    pub(crate) fn image_of(&self, at: Address) -> Option<Image> {
        let server = self.world.node(at).server()?;
        Some(Image {
            id: server.parts.id,
            disk: server.parts.disk.fork(),
            machine: server.parts.machine.image(),
        })
    }

    /// The machine is as it was when its image was made.
    fn roll_back(&mut self, at: Address) -> bool {
        let Some(image) = self.images.get(&at).cloned() else {
            return false;
        };
        if !self.may_lose(at) || !self.may_roll_back(at, &image) {
            return false;
        }
        if self.world.is_up(at) {
            self.lose_power(at);
        }
        self.put_image(at, &image);
        true
    }

    /// A machine that does not run is as it was when that image was made.
    pub(crate) fn put_image(&mut self, at: Address, image: &Image) {
        let seed = self.dice.roll();
        if let Some(server) = self.world.node_mut(at).server_mut() {
            server.parts.disk = image.disk.fork();
            server.parts.disk.crash(seed);
            server.parts.machine.restore_image(&image.machine);
        }
        self.doom(at);
    }

    /// The power fails, and is back before long.
    fn lose_power(&mut self, at: Address) {
        self.crash(at, true);
        let back = self.dice.between(50, 3_000) * 1_000;
        self.later(back, Chore::Start(at));
    }

    /// That node's log is not written to for so long.
    pub(crate) fn stall(&mut self, at: Address, time: Micros) {
        let until = self.world.now() + time;
        if let Some(server) = self.world.node_mut(at).server_mut() {
            server.parts.stalled_until = until;
        }
    }
}

pub(crate) fn is_segment(name: &str) -> bool {
    name.strip_prefix("log-")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(crate) fn is_snapshot(name: &str) -> bool {
    name.strip_prefix("snapshot-").is_some_and(|rest| {
        rest.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_hexdigit())
    })
}
