//! The power goes at every byte of every write.

use raft_disk::SimDisk;

use crate::model::{Model, Script, files, last_segment, open};

/// For each group of a random log: its bytes reach the disk up to any one of them. What is read
/// back is the log before the group or, if all of it is there, after it; never anything else. It
/// can be written to again, and survives a second cut.
#[test]
fn a_group_cut_at_any_byte_happened_or_did_not() {
    let mut cuts = 0;
    for seed in 0..12 {
        let disk = SimDisk::new(seed);
        let mut script = Script::new(seed);
        let (mut store, _) = open(&disk).unwrap();
        for _ in 0..12 {
            let before = (files(&disk), script.model.clone());
            // A mark, if there is one, is cut together with the group behind it.
            if script.dice.below(3) == 0 {
                store.mark();
            }
            let group = script.group();
            store.write(&group).unwrap();
            let after = files(&disk);
            let name = last_segment(&disk);
            let (Some(old), Some(new)) = (before.0.get(&name), after.get(&name)) else {
                // A new segment, or none yet: `power_cuts` has these.
                continue;
            };
            let Some(first) = old.iter().zip(new).position(|(a, b)| a != b) else {
                continue;
            };
            let last = old.iter().zip(new).rposition(|(a, b)| a != b).unwrap();
            for cut in first..=last + 1 {
                let mut torn = new[..cut].to_vec();
                torn.extend_from_slice(&old[cut..]);
                let crashed = disk.fork();
                crashed.put(&name, &torn);
                let expected = if cut > last { &script.model } else { &before.1 };
                check(&crashed, expected, &script);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 10_000, "only {cuts} cuts were tried");
}

fn check(crashed: &SimDisk, expected: &Model, script: &Script) {
    let (mut store, recovered) = open(crashed).unwrap();
    assert_eq!(&Model::of(&store, &recovered), expected);
    // Life goes on, and what is stored then survives.
    let mut script = script.clone();
    script.restart(expected.clone());
    store.write(&script.group()).unwrap();
    drop(store);
    crashed.crash_losing_all_unsynced();
    let (store, recovered) = open(crashed).unwrap();
    assert_eq!(Model::of(&store, &recovered), script.model);
}

/// The last segment ends at any byte, or holds zeros from there on, which no crash does: whole
/// groups at its end may go unnoticed, but half of anything never does.
#[test]
fn a_segment_cut_at_any_byte_is_a_prefix_or_is_refused() {
    for seed in 0..4 {
        let disk = SimDisk::new(seed);
        let mut script = Script::new(seed);
        let (mut store, _) = open(&disk).unwrap();
        let mut states = vec![Model::default()];
        for _ in 0..15 {
            store.write(&script.group()).unwrap();
            states.push(script.model.clone());
        }
        drop(store);
        let name = last_segment(&disk);
        let bytes = disk.contents(&name).unwrap();
        let (mut opened, mut refused) = (0, 0);
        for cut in 0..bytes.len() {
            let mut zeroed = bytes.clone();
            zeroed[cut..].fill(0);
            for damaged in [&bytes[..cut], &zeroed[..]] {
                let crashed = disk.fork();
                crashed.put(&name, damaged);
                match open(&crashed) {
                    Ok((store, recovered)) => {
                        let model = Model::of(&store, &recovered);
                        assert!(states.contains(&model), "seed {seed}, cut {cut}: no prefix");
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(opened > 100 && refused > 100, "{opened} {refused}");
    }
}
