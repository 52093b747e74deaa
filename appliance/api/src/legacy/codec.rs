//! The values in a frame's body: numbers big endian, bytes and lists with their lengths before them.

use super::{Invalid, MAX_ITEMS};

pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// With three bytes of length; what is longer makes the frame too long.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let [_, length @ ..] = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.raw(&length);
        self.raw(bytes);
    }

    pub(super) fn optional(&mut self, bytes: Option<&[u8]>) {
        self.raw(&[u8::from(bytes.is_some())]);
        if let Some(bytes) = bytes {
            self.bytes(bytes);
        }
    }

    /// What is more than the reader takes is an invalid frame to it.
    pub(super) fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
        for item in items {
            write(self, item);
        }
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Invalid::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Invalid::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Invalid> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Invalid> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Invalid> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Invalid> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Invalid::Value),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Invalid> {
        let [a, b, c] = self.array()?;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.take(usize::try_from(length).map_err(|_| Invalid::Length)?)
    }

    pub(super) fn optional(&mut self) -> Result<Option<&'a [u8]>, Invalid> {
        if self.flag()? { self.bytes().map(Some) } else { Ok(None) }
    }

    pub(super) fn list<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, Invalid>,
    ) -> Result<Vec<T>, Invalid> {
        let length = usize::from(self.u16()?);
        if length > MAX_ITEMS {
            return Err(Invalid::Value);
        }
        (0..length).map(|_| read(self)).collect()
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn end(&self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid::Length) }
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, Invalid> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Invalid::Value)
}
