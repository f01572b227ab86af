//! Names of segments, and laying out the next one before it is needed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::disk::{Disk, DiskFile, Space};

/// A file that is not yet a segment: ignored and removed when the log is opened.
pub(crate) fn half_made_name(number: u64) -> String {
    format!("log-next-{number:016x}.tmp")
}

pub(crate) fn is_half_made(name: &str) -> bool {
    name.starts_with("log-next-") && name.ends_with(".tmp")
}

/// Name of a segment; they sort as their numbers do.
pub(crate) fn segment_name(number: u64) -> String {
    format!("log-{number:016x}")
}

/// The number in a segment's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    // Only the name that we would have written: no other spelling of the same number.
    (segment_name(number) == name).then_some(number)
}

/// A file of zeros, waiting to become a segment.
#[derive(Debug)]
pub(crate) struct LaidOut {
    pub name: String,
    pub bytes: u64,
    pub file: Arc<dyn DiskFile>,
}

/// Makes files of zeros ahead of time, on a thread of its own: writing 64 MiB of zeros takes a
/// quarter of a second during which nothing could be stored.
#[derive(Debug)]
pub(crate) struct Supplier {
    disk: Arc<dyn Disk>,
    bytes: u64,
    names: u64,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    orders: Sender<String>,
    deliveries: Receiver<io::Result<LaidOut>>,
    ordered: bool,
    handle: JoinHandle<()>,
}

impl Supplier {
    /// With `ahead`, the first file is begun at once; otherwise each is made when it is asked for.
    pub(crate) fn new(disk: Arc<dyn Disk>, bytes: u64, ahead: bool) -> io::Result<Supplier> {
        let thread = if ahead {
            Some(spawn(disk.clone(), bytes)?)
        } else {
            None
        };
        // Beginning anywhere, so that two logs opened one after the other never mean the same file.
        let names = disk.random()?;
        let mut supplier = Supplier {
            disk,
            bytes,
            names,
            thread,
        };
        supplier.order();
        Ok(supplier)
    }

    /// A file of at least `bytes` zeros: the one that was laid out, if it is ready and large enough;
    /// else a new one whose room is reserved but not written, which takes no time.
    pub(crate) fn take(&mut self, bytes: u64) -> io::Result<LaidOut> {
        if bytes <= self.bytes
            && let Some(laid_out) = self.delivered()
        {
            self.order();
            return Ok(laid_out);
        }
        // One that failed may be tried again; one that is under way serves next time.
        self.order();
        let name = self.next_name();
        let bytes = bytes.max(self.bytes);
        let file = self.disk.create(&name, bytes, Space::Reserved)?;
        Ok(LaidOut { name, bytes, file })
    }

    fn delivered(&mut self) -> Option<LaidOut> {
        let thread = self.thread.as_mut()?;
        let delivery = thread.deliveries.try_recv().ok()?;
        thread.ordered = false;
        // Why it failed is found out, and said, by whoever makes the next one.
        delivery.ok()
    }

    fn order(&mut self) {
        let name = self.next_name();
        if let Some(thread) = &mut self.thread
            && !thread.ordered
        {
            thread.ordered = thread.orders.send(name).is_ok();
        }
    }

    fn next_name(&mut self) -> String {
        self.names = self.names.wrapping_add(1);
        half_made_name(self.names)
    }
}

impl Drop for Supplier {
    fn drop(&mut self) {
        if let Some(Thread {
            orders,
            deliveries,
            handle,
            ..
        }) = self.thread.take()
        {
            drop(orders);
            let _ = handle.join();
            // What was not needed goes now rather than at the next start; a failure leaves it to
            // that start.
            for laid_out in deliveries.try_iter().flatten() {
                let _ = self.disk.remove(&laid_out.name);
            }
        }
    }
}

fn spawn(disk: Arc<dyn Disk>, bytes: u64) -> io::Result<Thread> {
    let (orders, ordered) = channel::<String>();
    let (deliver, deliveries) = channel();
    let work = move || {
        for name in ordered {
            let made = lay_out(&*disk, &name, bytes);
            if made.is_err() {
                let _ = disk.remove(&name);
            }
            let laid_out = made.map(|file| LaidOut { name, bytes, file });
            if deliver.send(laid_out).is_err() {
                return;
            }
        }
    };
    let handle = std::thread::Builder::new()
        .name("log-layout".to_owned())
        .spawn(work)?;
    Ok(Thread {
        orders,
        deliveries,
        ordered: false,
        handle,
    })
}

fn lay_out(disk: &dyn Disk, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(name, bytes, Space::Written)?;
    file.sync()?;
    Ok(file)
}
