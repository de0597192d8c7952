package mysqlnode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxStatement bounds one statement of a script, in bytes: more than the server takes.
const maxStatement = 32 << 20

// script reads the statements of a file as MariaDB's own client finds them, without that
// client, which is also a shell: what it does by itself (source, system, \!) are no
// statements, and the server refuses them.
type script struct {
	from      *bufio.Reader
	delimiter []byte
	line      int // of what is read next
	// Both follow the session's sql_mode. The code that runs the statements sets them.
	noBackslash, ansiQuotes bool
	most                    int // bytes of a statement
}

func newScript(from io.Reader) *script {
	return &script{from: bufio.NewReaderSize(from, 1<<16), delimiter: []byte(";"), line: 1, most: maxStatement}
}

var (
	errStatementTooLong = fmt.Errorf("a statement has more than %d MiB", maxStatement>>20)
	errNoStatement      = errors.New("the file ends within a statement, or sets a delimiter that cannot be one")
)

// next returns the next statement, without its delimiter, and the line where it begins. It
// is empty if there are only comments. io.EOF: there is none.
func (s *script) next() (statement []byte, line int, err error) {
	var text []byte
	quote := byte(0) // ' " ` or, for comments, * (to the closing one) and # (to the end of the line)
	blank := true    // nothing of a statement is there yet
	atStart := true  // of a line
	for {
		c, err := s.from.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && len(bytes.TrimSpace(text)) > 0 {
				if quote != 0 && quote != '#' {
					return nil, line, errNoStatement
				}
				return stripped(text, blank), line, nil
			}
			return nil, line, err
		}
		if len(text) >= s.most {
			return nil, line, errStatementTooLong
		}
		if blank && quote == 0 && atStart && (c == 'd' || c == 'D') {
			is, err := s.readDelimiter(c)
			if err != nil {
				return nil, s.line, err
			}
			if is {
				text = text[:0]
				continue
			}
		}
		text = append(text, c)
		atStart = false
		if c == '\n' {
			s.line++
			atStart = true
		}
		switch {
		case quote == '#':
			if c == '\n' {
				quote = 0
			}
			continue
		case quote == '*':
			if c == '/' && bytes.HasSuffix(text, []byte("*/")) {
				quote = 0
			}
			continue
		case quote != 0:
			if c == '\\' && quote != '`' && !s.noBackslash && !(quote == '"' && s.ansiQuotes) {
				escaped, err := s.from.ReadByte()
				if err != nil {
					return nil, line, errNoStatement
				}
				if escaped == '\n' {
					s.line++
				}
				text = append(text, escaped)
			} else if c == quote { // a doubled quote ends one and begins another
				quote = 0
			}
			continue
		}
		var following []byte
		if c == '-' || c == '/' {
			following, _ = s.from.Peek(2) // fewer at the end of the file
		}
		switch {
		case c == '#', c == '-' && len(following) > 0 && following[0] == '-' && (len(following) == 1 || following[1] <= ' '):
			quote = '#'
			continue
		case c == '/' && len(following) > 0 && following[0] == '*':
			star, _ := s.from.ReadByte() // it was seen
			text = append(text, star)
			quote = '*'
			// One that the server reads is part of a statement.
			if len(following) == 2 && (following[1] == '!' || following[1] == 'M') {
				if blank {
					line = s.line
				}
				blank = false
			}
			continue
		}
		if c == s.delimiter[len(s.delimiter)-1] && bytes.HasSuffix(text, s.delimiter) {
			return stripped(text[:len(text)-len(s.delimiter)], blank), line, nil
		}
		if blank && c > ' ' {
			blank, line = false, s.line
		}
		if c == '\'' || c == '"' || c == '`' {
			quote = c
		}
	}
}

// stripped is a statement without what is around it; none if nothing of it was there.
func stripped(text []byte, blank bool) []byte {
	if blank {
		return nil
	}
	return bytes.TrimSpace(text)
}

// readDelimiter reads a line that begins with c and sets another delimiter, if it is one.
func (s *script) readDelimiter(c byte) (bool, error) {
	const word = "elimiter "
	following, _ := s.from.Peek(len(word)) // fewer at the end of the file
	if !bytes.EqualFold(following, []byte(word)) {
		return false, nil
	}
	text, err := s.from.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, errNoStatement
	}
	s.line++
	delimiter := bytes.TrimSpace(text[len(word):])
	if len(delimiter) == 0 || len(delimiter) > 16 || bytes.ContainsAny(delimiter, "\\'\"`") {
		return false, errNoStatement
	}
	s.delimiter = bytes.Clone(delimiter)
	return true, nil
}
