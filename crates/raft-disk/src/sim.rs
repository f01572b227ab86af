//! A disk in memory that forgets what a real one may forget.
//!
//! It keeps two images: what a running process sees, and what is certain to survive. A [`crash`]
//! makes the first into one of the images that the second allows: writes that were not synced are
//! there, are missing, or are torn between two sectors or inside one; names that were not synced
//! are old or new, in the order in which they were changed. Which of these, a seed decides.
//!
//! A failed sync behaves as on Linux: the process goes on seeing what it wrote, the pages count as
//! clean, and a later sync succeeds without storing them.
//!
//! [`crash`]: SimDisk::crash

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, Space};

/// What a power cut tears apart: bytes that reach the disk together.
pub const SECTOR_BYTES: u64 = 512;

/// Files are held in pages of this size; a page of zeros takes no memory.
const PAGE_BYTES: u64 = 4096;

/// A simulated disk. A clone is another handle on the same disk; [`SimDisk::fork`] copies it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for SimDisk {
    // Not the content: it is in everything that has a disk.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Disk::create`].
    Create,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync`].
    Sync,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::read_at`].
    Read,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::open`].
    Open,
}

/// One failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// So many of them succeed first.
    pub after: u64,
    /// The error.
    pub error: io::ErrorKind,
    /// Of a write, so many bytes get into the file nevertheless.
    pub written: usize,
}

/// Where a power cut leaves what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    NothingSurvives,
    EverythingSurvives,
    SectorsAtRandom,
    TornInOrder,
}

#[derive(Clone, Debug, Default)]
struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// Grows with every crash: handles from before are dead.
    life: u64,
    random: Dice,
    capacity: Option<u64>,
    read_only: bool,
    faults: Vec<Fault>,
    counts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

/// A file as the process sees it, as it is certain to survive, and what lies between.
#[derive(Clone, Debug, Default)]
struct Content {
    seen: Pages,
    durable: Pages,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

/// A sparse run of bytes.
#[derive(Clone, Debug, Default)]
struct Pages {
    length: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES as usize]>>,
}

/// A small generator, so that a seed says everything (splitmix64).
#[derive(Clone, Debug, Default)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `most`, both included.
    fn up_to(&mut self, most: u64) -> u64 {
        self.roll() % (most.saturating_add(1)).max(1)
    }
}

impl Pages {
    fn set_len(&mut self, length: u64) {
        if length < self.length {
            self.write_zeros(length, self.length - length);
            self.pages.split_off(&length.div_ceil(PAGE_BYTES));
        }
        self.length = length;
    }

    fn write_zeros(&mut self, offset: u64, length: u64) {
        let zeros = [0; PAGE_BYTES as usize];
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let chunk = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            self.write(at, &zeros[..chunk as usize]);
            at += chunk;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, inside) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let chunk = (PAGE_BYTES as usize - inside).min(bytes.len() - done);
            let piece = &bytes[done..done + chunk];
            if self.pages.contains_key(&number) || piece.iter().any(|byte| *byte != 0) {
                let page = self
                    .pages
                    .entry(number)
                    .or_insert_with(|| Arc::new([0; PAGE_BYTES as usize]));
                Arc::make_mut(page)[inside..inside + chunk].copy_from_slice(piece);
            }
            done += chunk;
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let there = self.length.saturating_sub(offset).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < there {
            let at = offset + done as u64;
            let (number, inside) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let chunk = (PAGE_BYTES as usize - inside).min(there - done);
            match self.pages.get(&number) {
                Some(page) => {
                    into[done..done + chunk].copy_from_slice(&page[inside..inside + chunk]);
                }
                None => into[done..done + chunk].fill(0),
            }
            done += chunk;
        }
        there
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Bytes(offset, bytes) => self.write(*offset, bytes),
            Change::Length(length) => self.set_len(*length),
        }
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            self.durable.apply(&change);
        }
    }

    fn cut(&mut self, cut: Cut, dice: &mut Dice) {
        let pending = std::mem::take(&mut self.pending);
        match cut {
            Cut::NothingSurvives => {}
            Cut::EverythingSurvives => {
                pending.iter().for_each(|change| self.durable.apply(change));
            }
            Cut::SectorsAtRandom => {
                for change in &pending {
                    match change {
                        Change::Bytes(offset, bytes) => {
                            scatter(&mut self.durable, *offset, bytes, dice);
                        }
                        Change::Length(_) if dice.up_to(1) == 0 => self.durable.apply(change),
                        Change::Length(_) => {}
                    }
                }
            }
            Cut::TornInOrder => {
                let whole = dice.up_to(pending.len() as u64) as usize;
                pending[..whole]
                    .iter()
                    .for_each(|change| self.durable.apply(change));
                if let Some(Change::Bytes(offset, bytes)) = pending.get(whole) {
                    let torn = dice.up_to(bytes.len() as u64) as usize;
                    self.durable.write(*offset, &bytes[..torn]);
                }
            }
        }
        self.seen = self.durable.clone();
    }
}

/// Writes some of the sectors of `bytes`, now and then only part of one.
fn scatter(pages: &mut Pages, offset: u64, bytes: &[u8], dice: &mut Dice) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let chunk = ((SECTOR_BYTES - at % SECTOR_BYTES) as usize).min(bytes.len() - done);
        let kept = match dice.up_to(7) {
            0..=2 => 0,
            3..=6 => chunk,
            _ => dice.up_to(chunk as u64) as usize,
        };
        pages.write(at, &bytes[done..done + kept]);
        done += chunk;
    }
}

impl State {
    fn fails(&mut self, operation: Operation) -> Option<(io::Error, usize)> {
        let mut hit = None;
        self.faults.retain_mut(|fault| {
            if fault.operation != operation {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            if hit.is_some() {
                return true;
            }
            hit = Some((io::Error::from(fault.error), fault.written));
            false
        });
        hit
    }

    fn try_to(&mut self, operation: Operation) -> io::Result<()> {
        self.fails(operation)
            .map_or(Ok(()), |(error, _)| Err(error))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.files.get(id))
            .map(|f| f.seen.length)
            .sum()
    }

    fn room_for(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used().saturating_add(more) > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change_names(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn file(&mut self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn change_names(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Set(name, id) => {
            names.insert(name.clone(), *id);
        }
        NameChange::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl SimDisk {
    /// An empty disk of unlimited size. The seed decides what [`Disk::random`] returns.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            random: Dice(seed),
            ..State::default()
        })))
    }

    /// A second, independent disk with the same content, synced or not: an image of the machine.
    pub fn fork(&self) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(self.state().clone())))
    }

    /// The power goes and comes back. Open files of before answer errors from now on.
    pub fn crash(&self, seed: u64) {
        let mut dice = Dice(seed);
        let cut = match dice.up_to(3) {
            0 => Cut::NothingSurvives,
            1 => Cut::EverythingSurvives,
            2 => Cut::SectorsAtRandom,
            _ => Cut::TornInOrder,
        };
        self.cut(cut, &mut dice);
    }

    /// The power goes, and nothing survives that was not synced.
    pub fn crash_losing_all_unsynced(&self) {
        self.cut(Cut::NothingSurvives, &mut Dice(0));
    }

    /// The process dies and the machine lives: everything written is still seen, nothing more is
    /// durable. Open files of before answer errors from now on.
    pub fn kill(&self) {
        self.state().life += 1;
    }

    fn cut(&self, cut: Cut, dice: &mut Dice) {
        let state = &mut *self.state();
        state.life += 1;
        let pending = std::mem::take(&mut state.pending_names);
        let kept = match cut {
            Cut::NothingSurvives => 0,
            Cut::EverythingSurvives => pending.len(),
            _ => dice.up_to(pending.len() as u64) as usize,
        };
        for change in &pending[..kept] {
            change_names(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        let living: Vec<u64> = state.names.values().copied().collect();
        state.files.retain(|id, _| living.contains(id));
        for file in state.files.values_mut() {
            file.cut(cut, dice);
        }
    }

    /// What a reader of the file would see; `None` without the file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let mut state = self.state();
        let id = state.file(name).ok()?;
        let pages = &state.files.get(&id)?.seen;
        let mut bytes = vec![0; pages.length as usize];
        pages.read(0, &mut bytes);
        Some(bytes)
    }

    /// Whether the file with all that a reader would see of it, and its name, survive a power cut.
    pub fn is_durable(&self, name: &str) -> bool {
        let state = self.state();
        let Some(id) = state.names.get(name) else {
            return false;
        };
        let content = state.files.get(id);
        state.durable_names.get(name) == Some(id)
            && content.is_some_and(|content| content.pending.is_empty())
    }

    /// Puts a file there, durably, in place of the old one.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let state = &mut *self.state();
        let mut pages = Pages::default();
        pages.write(0, bytes);
        let content = Content {
            seen: pages.clone(),
            durable: pages,
            pending: Vec::new(),
        };
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, content);
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    /// Flips one bit on the medium, whatever the process believes.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) {
        let state = &mut *self.state();
        let Ok(id) = state.file(name) else { return };
        let Some(content) = state.files.get_mut(&id) else {
            return;
        };
        for pages in [&mut content.seen, &mut content.durable] {
            let mut byte = [0];
            if pages.read(offset, &mut byte) == 1 {
                pages.write(offset, &[byte[0] ^ (1 << (bit % 8))]);
            }
        }
    }

    /// Makes one coming operation fail.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes back every failure that has not happened yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Sets the size of the disk in bytes; files may then not grow beyond it in sum.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Remounts the disk read-only, or back.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// Bytes that the files take together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// How many calls of [`DiskFile::sync`] there were.
    pub fn syncs(&self) -> u64 {
        self.state().counts.get("sync").copied().unwrap_or(0)
    }

    /// How many calls of [`DiskFile::write_at`] there were.
    pub fn writes(&self) -> u64 {
        self.state().counts.get("write").copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64, _: Space) -> io::Result<Arc<dyn DiskFile>> {
        let state = &mut *self.state();
        state.writable()?;
        state.try_to(Operation::Create)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.room_for(bytes)?;
        let id = state.next_file;
        state.next_file += 1;
        let mut content = Content::default();
        content.change(Change::Length(bytes));
        state.files.insert(id, content);
        state.change_name(NameChange::Set(name.to_owned(), id));
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
            life: state.life,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let id = state.file(name)?;
        state.try_to(Operation::Open)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
            life: state.life,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.writable()?;
        state.try_to(Operation::Rename)?;
        state.file(from)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.file(name)?;
        state.writable()?;
        state.try_to(Operation::Remove)?;
        state.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let state = &mut *self.state();
        state.count("sync_dir");
        // Names are in the file system's journal: when that fails they stay dirty or everything
        // stops, but they are not forgotten.
        state.try_to(Operation::SyncDir)?;
        let pending = std::mem::take(&mut state.pending_names);
        for change in &pending {
            change_names(&mut state.durable_names, change);
        }
        Ok(())
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self.state().random.roll())
    }

    fn path(&self, name: &str) -> String {
        format!("simulated:/{name}")
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut State, &mut Content) -> io::Result<T>,
    ) -> io::Result<T> {
        let state = &mut *self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("the machine was switched off"));
        }
        // Out of the table while it is worked on, so that the rest of the state is free.
        let mut content = state.files.remove(&self.id).unwrap_or_default();
        let result = work(state, &mut content);
        state.files.insert(self.id, content);
        result
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|_, content| Ok(content.seen.length))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(|state, content| {
            state.try_to(Operation::Read)?;
            Ok(content.seen.read(offset, into))
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|state, content| {
            state.writable()?;
            state.count("write");
            if let Some((error, written)) = state.fails(Operation::Write) {
                let part = &bytes[..written.min(bytes.len())];
                content.change(Change::Bytes(offset, part.to_vec()));
                return Err(error);
            }
            // The table's sum is without this file just now.
            let end = offset + bytes.len() as u64;
            if end > content.seen.length {
                state.room_for(end)?;
            }
            content.change(Change::Bytes(offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, content| {
            state.count("sync");
            if let Err(error) = state.try_to(Operation::Sync) {
                content.pending.clear();
                return Err(error);
            }
            content.sync();
            Ok(())
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|state, content| {
            state.writable()?;
            if bytes > content.seen.length {
                state.room_for(bytes)?;
            }
            content.change(Change::Length(bytes));
            Ok(())
        })
    }
}
