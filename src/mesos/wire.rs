//! Protocol buffers as Mesos writes them to disk: records with their length in front, and the fields in them.
//!
//! Only reading, and only what Mesos uses: nothing recurses and nothing is copied, so that no file costs more than
//! its length. Unknown fields are passed over; groups, which Mesos never had, are refused.
#![forbid(unsafe_code)]

/// What is wrong, and where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled {
    /// Byte offset in the file.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Result with [`Garbled`].
pub type Result<T> = std::result::Result<T, Garbled>;

/// A part of a file that knows where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Integers, booleans and enumerations.
    Varint(u64),
    /// Doubles among others, by their bits.
    Fixed64(u64),
    /// Floats among others, by their bits.
    Fixed32(u32),
    /// Strings and messages.
    Bytes(Part<'a>),
}

/// Largest number that a field may have.
const LAST_FIELD: u64 = (1 << 29) - 1;

impl<'a> Part<'a> {
    /// A whole file.
    #[must_use]
    pub fn file(bytes: &'a [u8]) -> Part<'a> {
        Part { bytes, at: 0 }
    }

    /// Its offset in the file.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// This place, with what is wrong here.
    #[must_use]
    pub fn garbled(&self, what: &'static str) -> Garbled {
        Garbled { at: self.at, what }
    }

    /// Takes the next record off a file; `None` at its end.
    ///
    /// # Errors
    /// Where the file ends within the record or its length.
    pub fn record(&mut self) -> Result<Option<Part<'a>>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = *self;
        // stout writes the length as the machine has it (mesos.md B4).
        let length = u32::from_ne_bytes(self.array("the file ends within a record's length")?);
        match self.take(length.into()) {
            Some(record) => Ok(Some(record)),
            None => Err(start.garbled("the file ends within the record that begins here")),
        }
    }

    /// Takes the next field off a message; `None` at its end.
    ///
    /// # Errors
    /// Where the bytes are none, or end too early.
    pub fn field(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = *self;
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || number > LAST_FIELD {
            return Err(start.garbled("no field has this number"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array("the message ends within a number")?)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length).ok_or(start.garbled("the message ends within the field"))?)
            }
            3 | 4 => return Err(start.garbled("a group, which Mesos does not write")),
            5 => Value::Fixed32(u32::from_le_bytes(self.array("the message ends within a number")?)),
            _ => return Err(start.garbled("no field has this type")),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: u64) -> Option<Part<'a>> {
        let length = usize::try_from(length).ok()?;
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        let part = Part { bytes: taken, at: self.at };
        *self = Part { bytes: rest, at: self.at + length };
        Some(part)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk::<N>().ok_or(self.garbled(what))?;
        *self = Part { bytes: rest, at: self.at + N };
        Ok(*array)
    }

    fn varint(&mut self) -> Result<u64> {
        let start = *self;
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array("the message ends within a number")?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(start.garbled("a number of more than 10 bytes"))
    }
}

/// Writing, for tests.
#[cfg(test)]
pub mod write {
    /// A field of a varint.
    pub fn number(field: u64, mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut key = field << 3;
        for number in [&mut key, &mut value] {
            while *number >= 0x80 {
                bytes.push(*number as u8 | 0x80);
                *number >>= 7;
            }
            bytes.push(*number as u8);
        }
        bytes
    }

    /// A field of a double.
    pub fn double(field: u8, value: f64) -> Vec<u8> {
        [&[field << 3 | 1][..], &value.to_le_bytes()].concat()
    }

    /// A field of a string or message.
    pub fn bytes(field: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
        let value = value.as_ref();
        // The length is a varint too, as if it were the value of a field whose key is one byte.
        [&[field << 3 | 2][..], &number(1, value.len() as u64)[1..], value].concat()
    }

    /// A record.
    pub fn record(message: impl AsRef<[u8]>) -> Vec<u8> {
        [&(message.as_ref().len() as u32).to_ne_bytes()[..], message.as_ref()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
        let mut part = Part::file(bytes);
        std::iter::from_fn(|| part.field().transpose()).collect()
    }

    #[test]
    fn every_type_is_read_and_knows_its_place() {
        let message = [
            write::number(13, 300),
            write::double(1, 2048.5),
            [5 << 3 | 5, 1, 2, 3, 4].to_vec(),
            write::bytes(2, "x".repeat(200)),
        ]
        .concat();
        let found = fields(&message).unwrap();
        assert_eq!(found[0], (13, Value::Varint(300)));
        assert_eq!(found[1], (1, Value::Fixed64(2048.5f64.to_bits())));
        assert_eq!(found[2], (5, Value::Fixed32(0x0403_0201)));
        let (2, Value::Bytes(part)) = found[3] else { panic!("{found:?}") };
        assert_eq!((part.at(), part.bytes().len()), (message.len() - 200, 200));
        assert_eq!(fields(&write::number(LAST_FIELD, u64::MAX)).unwrap(), [(LAST_FIELD, Value::Varint(u64::MAX))]);
    }

    #[test]
    fn records_follow_each_other() {
        let file = [write::record("ab"), write::record(""), write::record("c")].concat();
        let mut part = Part::file(&file);
        let records: Vec<(usize, &[u8])> =
            std::iter::from_fn(|| part.record().unwrap()).map(|record| (record.at(), record.bytes())).collect();
        assert_eq!(records, [(4, &b"ab"[..]), (10, b""), (14, b"c")]);
        assert_eq!(Part::file(b"").record(), Ok(None));
    }

    #[test]
    fn what_is_cut_short_or_garbled_is_told_with_its_place() {
        let place = |bytes: &[u8]| fields(bytes).unwrap_err();
        let good = write::number(1, 1);
        for (bad, at) in [
            (&[0x0a, 5, 1][..], 2),             // a string that ends too early
            (&[0x0a], 3),                       // no length
            (&[0x09, 1, 2, 3], 3),              // half a double
            (&[0x0d, 1, 2, 3], 3),              // half a float
            (&[0x08, 0x80], 4),                 // half a varint
            (&[0x08, 0x80, 0x80], 5),           // and more of it
            (&[0x0b], 2),                       // a group begins
            (&[0x0c], 2),                       // a group ends
            (&[0x0e], 2),                       // no such type
            (&[0x00, 0x00], 2),                 // no such field
            (&[0x08, 0xff, 0xff, 0xff], 6),     // half a varint
            (&[0xff; 12], 2),                   // too long a varint
            (&[0x80, 0x80, 0x80, 0x80, 16], 2), // field 2^29
        ] {
            assert_eq!(place(&[&good, bad].concat()).at, at, "{bad:x?}");
        }
        let huge = [&[0x0a][..], &[0xff; 9], &[1]].concat();
        assert_eq!(place(&huge).at, 0, "a length of 2^64 - 1");
        let file = [write::record("ab"), vec![9, 0, 0, 0, 1]].concat();
        let mut part = Part::file(&file);
        part.record().unwrap();
        assert_eq!(part.record().unwrap_err().at, 6);
        assert_eq!(Part::file(&[1, 0, 0]).record().unwrap_err().at, 0);
    }

    #[test]
    fn no_bytes_at_all_make_it_panic() {
        // Every message of up to 3 bytes out of those that matter, and every cut of one that is good.
        let bytes = [0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 0x7f, 0x80, 0xff];
        for a in bytes {
            for b in bytes {
                for c in bytes {
                    let _ = fields(&[a, b, c]);
                    let _ = Part::file(&[a, b, c, 0, c]).record();
                }
            }
        }
    }
}
