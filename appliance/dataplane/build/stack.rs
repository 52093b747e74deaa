//! How much stack the programs of a BPF object use.
//!
//! For: failing a build early. A kernel takes 512 bytes for a program and the functions that it calls,
//! each rounded up to 32 (check_max_stack_depth), and what a compiler makes of the same source differs by
//! its version. Not for: any object but clang's. Reads ELF64, little-endian; fails where it is none.

use std::collections::{BTreeMap, BTreeSet};

/// A section's header, as far as it is needed.
struct Section {
    kind: u32,
    at: usize,
    size: usize,
    link: usize,
    info: usize,
}

struct Function {
    name: String,
    stack: usize,
    calls: BTreeSet<Place>,
}

/// A section and an offset in it.
type Place = (usize, usize);

const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 9;
const FUNCTION: u8 = 2;
const SLOT: usize = 8;
const FRAME_POINTER: u8 = 10;

/// The deepest way into the object: bytes, and the functions on it.
pub fn deepest(object: &[u8]) -> Option<(usize, Vec<String>)> {
    let functions = functions(object)?;
    // What is not found would count as nothing.
    let known = |function: &Function| function.calls.iter().all(|to| functions.contains_key(to));
    if !functions.values().all(known) {
        return None;
    }
    functions.keys().map(|place| deepest_from(&functions, *place, 0)).max()
}

/// No deeper than the kernel lets functions call one another.
fn deepest_from(
    functions: &BTreeMap<Place, Function>,
    from: Place,
    depth: usize,
) -> (usize, Vec<String>) {
    let Some(function) = functions.get(&from).filter(|_| depth < 8) else { return (0, vec![]) };
    let calls = function.calls.iter().map(|to| deepest_from(functions, *to, depth + 1));
    let (below, mut names) = calls.max().unwrap_or_default();
    names.insert(0, format!("{} {}", function.name, function.stack));
    (below + function.stack.max(1).next_multiple_of(32), names)
}

fn functions(object: &[u8]) -> Option<BTreeMap<Place, Function>> {
    let sections = sections(object)?;
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let names = sections.get(symbols.link)?;
    let targets = call_targets(object, &sections, symbols)?;
    let mut functions = BTreeMap::new();
    for at in (symbols.at..symbols.at + symbols.size).step_by(24) {
        if byte(object, at + 4)? & 15 != FUNCTION {
            continue;
        }
        let place = (half(object, at + 6)?, long(object, at + 8)?);
        let name = object.get(names.at + word(object, at)? as usize..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let start = sections.get(place.0)?.at + place.1;
        let code = object.get(start..start + long(object, at + 16)?)?;
        let (stack, calls) = read(code, place, &targets)?;
        let name = String::from_utf8_lossy(name).into_owned();
        functions.insert(place, Function { name, stack, calls });
    }
    Some(functions)
}

/// Where calls go that the linker is to complete: by their own place, what they are counted from.
fn call_targets(
    object: &[u8],
    sections: &[Section],
    symbols: &Section,
) -> Option<BTreeMap<Place, Place>> {
    let mut targets = BTreeMap::new();
    for section in sections.iter().filter(|section| section.kind == RELOCATIONS) {
        for at in (section.at..section.at + section.size).step_by(16) {
            let symbol = symbols.at + 24 * word(object, at + 12)? as usize;
            let target = (half(object, symbol + 6)?, long(object, symbol + 8)?);
            targets.insert((section.info, long(object, at)?), target);
        }
    }
    Some(targets)
}

/// The deepest byte below the frame pointer that a function names, and what it calls.
fn read(
    code: &[u8],
    (section, start): Place,
    targets: &BTreeMap<Place, Place>,
) -> Option<(usize, BTreeSet<Place>)> {
    let (mut stack, mut calls) = (0, BTreeSet::new());
    // Registers that were made the frame pointer, and not changed since.
    let mut copies = BTreeSet::new();
    let mut at = 0;
    while at < code.len() {
        let (operation, registers) = (byte(code, at)?, byte(code, at + 1)?);
        let (to, from) = (registers & 15, registers >> 4);
        let offset = half(code, at + 2)? as u16 as i16;
        let immediate = word(code, at + 4)?.cast_signed();
        let below = |depth: i32| usize::try_from(-depth).unwrap_or(0);
        match (operation & 7, operation) {
            (1, _) if from == FRAME_POINTER => stack = stack.max(below(offset.into())),
            (2 | 3, _) if to == FRAME_POINTER => stack = stack.max(below(offset.into())),
            (7, 0x07) if copies.contains(&to) => stack = stack.max(below(immediate)),
            _ => {}
        }
        match (operation & 7, operation) {
            (_, 0xbf) if from == FRAME_POINTER => _ = copies.insert(to),
            (0 | 1 | 4 | 7, _) => _ = copies.remove(&to),
            _ => {}
        }
        // Of another function of the object.
        if operation == 0x85 && from == 1 {
            let own = (section, start + at);
            let (section, base) = targets.get(&own).copied().unwrap_or((section, start + at));
            let slots = i64::from(immediate) + 1;
            let target = i64::try_from(base).ok()? + slots * SLOT as i64;
            calls.insert((section, usize::try_from(target).ok()?));
        }
        at += if operation == 0x18 { 2 * SLOT } else { SLOT };
    }
    Some((stack, calls))
}

fn sections(object: &[u8]) -> Option<Vec<Section>> {
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, count) = (long(object, 40)?, half(object, 60)?);
    let section = |index| {
        let at = start + 64 * index;
        Some(Section {
            kind: word(object, at + 4)?,
            at: long(object, at + 24)?,
            size: long(object, at + 32)?,
            link: word(object, at + 40)? as usize,
            info: word(object, at + 44)? as usize,
        })
    };
    (0..count).map(section).collect()
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?).try_into().ok()
}
