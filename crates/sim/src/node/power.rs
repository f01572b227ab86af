//! A disk whose power can go at any operation.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_disk::{Disk, DiskFile, SimDisk, Space};

/// Never off.
const ON: u64 = u64::MAX / 2;

/// Passes everything on to a [`SimDisk`], until it is switched off; the change at which that happens is
/// half done, if that can be.
#[derive(Clone, Debug)]
pub struct Power {
    disk: SimDisk,
    /// Changes until the power is off, and one; 0: it is off.
    left: Arc<AtomicU64>,
}

#[derive(Debug)]
struct PoweredFile {
    power: Power,
    file: Arc<dyn DiskFile>,
}

impl Power {
    /// On.
    pub fn on(disk: &SimDisk) -> Power {
        Power {
            disk: disk.clone(),
            left: Arc::new(AtomicU64::new(ON)),
        }
    }

    /// So many changes are made from now on.
    pub fn off_after(&self, changes: u64) {
        self.left.store(changes + 1, Ordering::Relaxed);
    }

    fn look(&self) -> io::Result<()> {
        match self.left.load(Ordering::Relaxed) {
            0 => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    /// True: carry it out. False: the power goes now.
    fn change(&self) -> io::Result<bool> {
        self.look()?;
        let left = self.left.load(Ordering::Relaxed);
        if left < ON {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        Ok(left > 1)
    }

    fn change_or_off(&self) -> io::Result<()> {
        if self.change()? {
            Ok(())
        } else {
            Err(io::Error::other("the power went off"))
        }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let power = self.clone();
        Arc::new(PoweredFile { power, file })
    }
}

impl Disk for Power {
    fn list(&self) -> io::Result<Vec<String>> {
        self.look()?;
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.change_or_off()?;
        Ok(self.file(self.disk.create(name, bytes, space)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.look()?;
        Ok(self.file(self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_or_off()?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_or_off()?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change_or_off()?;
        self.disk.sync_dir()
    }

    fn random(&self) -> io::Result<u64> {
        self.look()?;
        self.disk.random()
    }

    fn path(&self, name: &str) -> String {
        self.disk.path(name)
    }
}

impl DiskFile for PoweredFile {
    fn len(&self) -> io::Result<u64> {
        self.power.look()?;
        self.file.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.power.look()?;
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.power.change()? {
            return self.file.write_at(offset, bytes);
        }
        self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
        Err(io::Error::other("the power went off"))
    }

    fn sync(&self) -> io::Result<()> {
        self.power.change_or_off()?;
        self.file.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.power.change_or_off()?;
        self.file.set_len(bytes)
    }
}
