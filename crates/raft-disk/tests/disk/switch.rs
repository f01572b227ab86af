//! A disk that is switched off at a chosen operation.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_disk::{Disk, DiskFile, SimDisk, Space};

/// Carries out so many changes; the one after them is half done, if that can be, and everything
/// then fails, reading included. What the machine forgets, [`SimDisk::crash`] says.
#[derive(Clone, Debug)]
pub struct Switch {
    disk: SimDisk,
    left: Arc<AtomicU64>,
}

#[derive(Debug)]
struct SwitchFile {
    switch: Switch,
    file: Arc<dyn DiskFile>,
}

impl Switch {
    pub fn after(changes: u64, disk: &SimDisk) -> Switch {
        // 1 is the change that fails, 0 is off.
        let left = Arc::new(AtomicU64::new(changes + 1));
        Switch {
            disk: disk.clone(),
            left,
        }
    }

    pub fn is_off(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// True: carry it out; false: the power goes now.
    fn change(&self) -> io::Result<bool> {
        self.read()?;
        Ok(self.left.fetch_sub(1, Ordering::SeqCst) > 1)
    }

    fn change_or_off(&self) -> io::Result<()> {
        if self.change()? { Ok(()) } else { Err(off()) }
    }

    fn read(&self) -> io::Result<()> {
        if self.is_off() { Err(off()) } else { Ok(()) }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SwitchFile {
            switch: self.clone(),
            file,
        })
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk for Switch {
    fn list(&self) -> io::Result<Vec<String>> {
        self.read()?;
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64, space: Space) -> io::Result<Arc<dyn DiskFile>> {
        self.change_or_off()?;
        Ok(self.file(self.disk.create(name, bytes, space)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.read()?;
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
        self.read()?;
        self.disk.random()
    }

    fn path(&self, name: &str) -> String {
        self.disk.path(name)
    }
}

impl DiskFile for SwitchFile {
    fn len(&self) -> io::Result<u64> {
        self.switch.read()?;
        self.file.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.switch.read()?;
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.switch.change()? {
            return self.file.write_at(offset, bytes);
        }
        self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
        Err(off())
    }

    fn sync(&self) -> io::Result<()> {
        self.switch.change_or_off()?;
        self.file.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.switch.change_or_off()?;
        self.file.set_len(bytes)
    }
}
