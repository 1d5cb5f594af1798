//! A gzip stream of any number of members.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The text of all members, one after the other. Zeros after the last member, which some media add, are ignored, as gzip and
/// Python do; anything else there is an error, since a reader that ignored it could lose a damaged member.
pub(crate) struct Members<R> {
    /// `None` only while a member gives way to the next.
    decoder: Option<GzDecoder<R>>,
    ended: bool,
}

impl<R: BufRead> Members<R> {
    pub(crate) fn new(reader: R) -> Self {
        Members { decoder: Some(GzDecoder::new(reader)), ended: false }
    }

    pub(crate) fn get_ref(&self) -> &R {
        self.decoder.as_ref().expect("there is a member between calls").get_ref()
    }

    /// Whether another member follows.
    fn follow(&mut self) -> io::Result<bool> {
        let reader = self.decoder.as_mut().expect("there is a member between calls").get_mut();
        let mut zeros = false;
        loop {
            let bytes = reader.fill_buf()?;
            let padding = bytes.iter().take_while(|&&byte| byte == 0).count();
            match bytes.get(padding) {
                None if bytes.is_empty() => return Ok(false),
                None => {}
                Some(0x1f) if !zeros && padding == 0 => break,
                Some(_) => {
                    let problem = "what follows its last member is no gzip";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                }
            }
            zeros = true;
            reader.consume(padding);
        }
        let reader = self.decoder.take().expect("there is a member between calls").into_inner();
        self.decoder = Some(GzDecoder::new(reader));
        Ok(true)
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            match self.decoder.as_mut().expect("there is a member between calls").read(buffer)? {
                0 => self.ended = !self.follow()?,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}
