//! A frame: a 32-bit big-endian length, then that many bytes of JSON.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Largest frame: a snapshot with 1000 certificates and a large rule set is below it. A longer
/// one is refused before a byte of it is read.
pub const MAX_FRAME: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {length} bytes is over the bound of {bound}")]
    TooLarge { length: usize, bound: usize },
    #[error("frame does not hold the expected message: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads one message; `None` where the peer closed between frames.
pub async fn read<T, R>(from: &mut R) -> Result<Option<T>, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    read_at_most(from, MAX_FRAME).await
}

/// Reads one message of at most `bound` bytes: for peers that send small messages only, so that
/// they cannot make the reader set aside more. `None` where the peer closed between frames.
pub async fn read_at_most<T, R>(from: &mut R, bound: usize) -> Result<Option<T>, FrameError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > bound {
        return Err(FrameError::TooLarge { length, bound });
    }
    // Snapshots carry keys: the buffer is wiped.
    let mut body = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one message.
pub async fn write<T, W>(to: &mut W, message: &T) -> Result<(), FrameError>
where
    T: Serialize,
    W: AsyncWrite + Unpin,
{
    let mut frame = Zeroizing::new(Vec::new());
    append(&mut frame, message)?;
    to.write_all(&frame).await?;
    to.flush().await?;
    Ok(())
}

/// Appends one message's frame, for several that are written at once; on an error nothing.
pub fn append(frames: &mut Vec<u8>, message: &impl Serialize) -> Result<(), FrameError> {
    let start = frames.len();
    frames.extend_from_slice(&[0; 4]);
    let encoded = serde_json::to_writer(&mut *frames, message).map_err(FrameError::Json);
    let length = frames.len().saturating_sub(start + 4);
    let within = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    match (encoded, within, frames.get_mut(start..start + 4)) {
        (Ok(()), Some(length), Some(head)) => {
            head.copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        (encoded, ..) => {
            frames.truncate(start);
            encoded.and(Err(FrameError::TooLarge { length, bound: MAX_FRAME }))
        }
    }
}

/// How long the frame of a message is, whether or not it is within the bound.
///
/// # Errors
/// The message is none that JSON has.
pub fn length(message: &impl Serialize) -> Result<usize, FrameError> {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, message)?;
    Ok(length.0)
}

/// The same frames for programs without a runtime.
pub mod blocking {
    use std::io::{ErrorKind, Read, Write};

    use serde::{Serialize, de::DeserializeOwned};
    use zeroize::Zeroizing;

    use super::{FrameError, MAX_FRAME};

    /// Reads one message of at most `bound` bytes; `None` where the peer closed between frames.
    pub fn read_at_most<T: DeserializeOwned>(
        from: &mut impl Read,
        bound: usize,
    ) -> Result<Option<T>, FrameError> {
        let mut length = [0; 4];
        match from.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > bound {
            return Err(FrameError::TooLarge { length, bound });
        }
        let mut body = Zeroizing::new(vec![0; length]);
        from.read_exact(&mut body)?;
        Ok(Some(serde_json::from_slice(&body)?))
    }

    /// Writes one message.
    pub fn write(to: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
        let body = Zeroizing::new(serde_json::to_vec(message)?);
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= MAX_FRAME)
            .ok_or(FrameError::TooLarge { length: body.len(), bound: MAX_FRAME })?;
        to.write_all(&length.to_be_bytes())?;
        to.write_all(&body)?;
        to.flush()?;
        Ok(())
    }
}
