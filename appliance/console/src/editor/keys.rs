//! Bytes of a terminal as keys: control characters, UTF-8, and the escape sequences of the
//! VT100 and Linux consoles and of xterm. A sequence that is not known is swallowed whole.

/// Longest escape sequence; a longer one is no key.
const LONGEST_SEQUENCE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Character(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    KillToEnd,
    KillToStart,
    KillWord,
    Yank,
    Redraw,
    Interrupt,
    EndOfInput,
}

#[derive(Default)]
pub struct Keys {
    state: State,
    /// The last byte was a carriage return: a line feed after it is the same key.
    after_return: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC [`: parameters so far.
    Sequence(Vec<u8>),
    /// After `ESC O`.
    Single,
    /// A UTF-8 character under way and how many bytes it has.
    Utf8(Vec<u8>, usize),
}

impl Keys {
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match std::mem::take(&mut self.state) {
            State::Ground if byte == b'\n' && after_return => None,
            State::Ground => self.ground(byte),
            State::Escape => {
                match byte {
                    b'[' => self.state = State::Sequence(Vec::new()),
                    b'O' => self.state = State::Single,
                    0x1b => self.state = State::Escape,
                    // Enter after a lone Escape is meant.
                    b'\r' | b'\n' => return Some(Key::Enter),
                    _ => {}
                }
                None
            }
            State::Single => cursor_key(byte),
            State::Sequence(mut parameters) => match byte {
                0x40..=0x7e => sequence(&parameters, byte),
                0x20..=0x3f if parameters.len() < LONGEST_SEQUENCE => {
                    parameters.push(byte);
                    self.state = State::Sequence(parameters);
                    None
                }
                _ => None,
            },
            State::Utf8(mut bytes, length) => {
                if byte & 0xc0 != 0x80 {
                    // The character was cut off; this byte begins anew.
                    return self.ground(byte);
                }
                bytes.push(byte);
                if bytes.len() < length {
                    self.state = State::Utf8(bytes, length);
                    return None;
                }
                std::str::from_utf8(&bytes).ok()?.chars().next().and_then(shown)
            }
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        let key = match byte {
            0x01 => Key::Home,
            0x02 => Key::Left,
            0x03 => Key::Interrupt,
            0x04 => Key::EndOfInput,
            0x05 => Key::End,
            0x06 => Key::Right,
            0x08 | 0x7f => Key::Backspace,
            b'\t' => Key::Tab,
            b'\r' | b'\n' => Key::Enter,
            0x0b => Key::KillToEnd,
            0x0c => Key::Redraw,
            0x0e => Key::Down,
            0x10 => Key::Up,
            0x15 => Key::KillToStart,
            0x17 => Key::KillWord,
            0x19 => Key::Yank,
            0x1b => {
                self.state = State::Escape;
                return None;
            }
            0x20..=0x7e => Key::Character(char::from(byte)),
            0xc2..=0xdf => return self.utf8(byte, 2),
            0xe0..=0xef => return self.utf8(byte, 3),
            0xf0..=0xf4 => return self.utf8(byte, 4),
            _ => return None,
        };
        Some(key)
    }

    fn utf8(&mut self, byte: u8, length: usize) -> Option<Key> {
        self.state = State::Utf8(vec![byte], length);
        None
    }
}

/// C1 control characters are no text, and a terminal may obey them.
fn shown(character: char) -> Option<Key> {
    (!character.is_control()).then_some(Key::Character(character))
}

fn cursor_key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        _ => return None,
    })
}

fn sequence(parameters: &[u8], end: u8) -> Option<Key> {
    if end != b'~' {
        return cursor_key(end);
    }
    Some(match parameters {
        b"1" | b"7" => Key::Home,
        b"3" => Key::Delete,
        b"4" | b"8" => Key::End,
        _ => return None,
    })
}
