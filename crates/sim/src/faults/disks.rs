//! What disks do wrong: they hang, fill up, fail, decay, are lost, or go back in time.

use raft_disk::sim::{Fault, Operation};

use super::{Chore, Kind};
use crate::run::{Image, Run};
use crate::world::Address;

impl Run<'_> {
    pub(super) fn make_on_disk(&mut self, kind: Kind, at: Address) -> bool {
        match kind {
            Kind::DiskStall => {
                let until = self.world.now() + self.dice.between(200, 6_000) * 1_000;
                if let Some(server) = self.world.node_mut(at).server_mut() {
                    server.parts.stalled_until = until;
                }
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
                    self.crash(at, true);
                    let back = self.dice.between(50, 3_000) * 1_000;
                    self.later(back, Chore::Start(at));
                }
                self.begin_anew(at);
                true
            }
            Kind::RollBack => self.roll_back(at),
            _ => false,
        }
    }

    /// Flips a bit where it will be noticed: in a segment that has a successor, or in a snapshot. (In the
    /// very last batch it would look like a torn tail, which nobody can tell apart.)
    fn flip(&mut self, at: Address) -> bool {
        if !self.may_lose(at) {
            return false;
        }
        let Some(server) = self.world.node(at).server() else {
            return false;
        };
        let disk = server.parts.disk.clone();
        let names = raft_disk::Disk::list(&disk).unwrap_or_default();
        let segments: Vec<&String> = names.iter().filter(|n| is_segment(n)).collect();
        let older = segments.len().saturating_sub(1);
        let snapshots = names.iter().filter(|name| is_snapshot(name));
        let targets: Vec<&String> = segments.into_iter().take(older).chain(snapshots).collect();
        let Some(name) = self.dice.pick(&targets).map(|name| (*name).clone()) else {
            return false;
        };
        let length = disk.contents(&name).map_or(0, |bytes| bytes.len() as u64);
        let used = disk.contents(&name).map_or(0, |bytes| {
            bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last as u64)
        });
        let offset = self.dice.below(used.max(1).min(length.max(1)));
        let bit = u8::try_from(self.dice.below(8)).unwrap_or(0);
        disk.flip(&name, offset, bit);
        self.doom(at);
        self.say(at, || format!("bit {bit} of byte {offset} of {name}"));
        true
    }

    pub(super) fn make_image(&mut self) {
        let wait = self.dice.between(1_000, 8_000) * 1_000;
        self.later(wait, Chore::Image);
        let at = self.victim();
        if let Some(server) = self.world.node(at).server() {
            let image = Image {
                id: server.parts.id,
                disk: server.parts.disk.fork(),
                machine: server.parts.machine.image(),
            };
            self.images.insert(at, image);
        }
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
            self.crash(at, true);
            let back = self.dice.between(50, 3_000) * 1_000;
            self.later(back, Chore::Start(at));
        }
        let seed = self.dice.roll();
        if let Some(server) = self.world.node_mut(at).server_mut() {
            server.parts.disk = image.disk.fork();
            server.parts.disk.crash(seed);
            server.parts.machine.restore_image(&image.machine);
        }
        self.doom(at);
        true
    }
}

fn is_segment(name: &str) -> bool {
    name.strip_prefix("log-")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_snapshot(name: &str) -> bool {
    name.strip_prefix("snapshot-").is_some_and(|rest| {
        rest.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_hexdigit())
    })
}
