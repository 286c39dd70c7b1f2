//! Lexer for xl configuration files (xl.cfg(5), "SYNTAX"; what xl's own reader in libxlutil takes, 4.17).

use std::ops::Range;

/// What is wrong with a configuration, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A lower-case letter, and then such letters, digits, `_` and `.`.
    Name(String),
    /// A string without its quotes, or a number as it is written.
    Atom(String),
    /// `=`, `[`, `]`, `,`, `;`
    Symbol(u8),
    /// `+=`
    Append,
    Newline,
    End,
}

/// Goes through the text.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

/// A word with its place.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) token: Token,
    /// In bytes.
    pub(super) span: Range<usize>,
    pub(super) line: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, line: 1 }
    }

    /// The next word; `Token::End` for ever at the end.
    pub(super) fn next(&mut self) -> Result<Word, SyntaxError> {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
        if self.peek() == Some(b'#') {
            self.skip(|byte| byte != b'\n');
        }
        let (start, line) = (self.at, self.line);
        let token = match self.bump() {
            None => Token::End,
            Some(b'\n') => {
                self.line += 1;
                Token::Newline
            }
            Some(symbol @ (b'=' | b'[' | b']' | b',' | b';')) => Token::Symbol(symbol),
            Some(b'+') if self.peek() == Some(b'=') => {
                self.at += 1;
                Token::Append
            }
            Some(b'a'..=b'z') => {
                self.skip(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
                Token::Name(self.text_from(start))
            }
            Some(b'0'..=b'9') => {
                self.skip(|byte| matches!(byte, b'a'..=b'f' | b'x' | b'0'..=b'9'));
                Token::Atom(self.text_from(start))
            }
            Some(quote @ (b'"' | b'\'')) => Token::Atom(self.string(quote)?),
            Some(b'\r') => return Err(self.error("a carriage return: the file has the line ends of another system")),
            Some(other) => return Err(self.error(format!("unexpected {:?}", char::from(other)))),
        };
        Ok(Word { token, span: start..self.at, line })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
    }

    fn text_from(&self, start: usize) -> String {
        self.text.get(start..self.at).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    fn error(&self, what: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, what: what.into() }
    }

    /// What is between two quotes on one line. A quote of the same kind cannot be among it, even behind a backslash.
    fn string(&mut self, quote: u8) -> Result<String, SyntaxError> {
        let mut content = Vec::new();
        loop {
            match self.bump() {
                Some(byte) if byte == quote => return Ok(String::from_utf8_lossy(&content).into_owned()),
                None | Some(b'\n') => return Err(self.error("a string without its second quote")),
                Some(b'\\') => content.push(self.escape()?),
                Some(byte) => content.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Result<u8, SyntaxError> {
        Ok(match self.bump() {
            Some(byte @ (b'\\' | b'"' | b'\'')) => byte,
            Some(b'a') => 0x07,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            Some(b'x') => self.number(2, 16)?,
            Some(b'0'..=b'7') => {
                self.at -= 1;
                self.number(3, 8)?
            }
            _ => return Err(self.error("a backslash before a character that means nothing there")),
        })
    }

    fn number(&mut self, most: usize, base: u32) -> Result<u8, SyntaxError> {
        let start = self.at;
        while self.at - start < most && self.peek().is_some_and(|byte| char::from(byte).is_digit(base)) {
            self.at += 1;
        }
        u8::from_str_radix(&self.text_from(start), base)
            .map_err(|_| self.error("a number behind a backslash that is no byte"))
    }
}
