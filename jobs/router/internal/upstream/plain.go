package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// plainHeaders is for how many headers of an answer there is room at first.
const plainHeaders = 8

// readPlain reads the head of an answer whose framing leaves no room for doubt:
// HTTP/1.1, complete in the reader's buffer, with one Content-Length or no body,
// and a connection that is kept. Of all others it reads nothing and returns nil;
// http.ReadResponse judges them. A fuzz target holds the two against each other.
func readPlain(in *bufio.Reader, req *http.Request) *http.Response {
	if _, err := in.Peek(1); err != nil {
		return nil
	}
	buffer, _ := in.Peek(in.Buffered())
	end := bytes.Index(buffer, []byte("\r\n\r\n"))
	if end < 0 {
		return nil
	}
	head := string(buffer[:end+2])
	status, code, rest := cutStatus(head)
	if code < 200 {
		return nil
	}
	header, length, plain := plainHeader(rest)
	if !plain {
		return nil
	}
	res := &http.Response{
		Status: status, StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Request: req, Body: http.NoBody, ContentLength: length,
	}
	switch {
	case req.Method == http.MethodHead:
	case code == http.StatusNoContent || code == http.StatusNotModified:
		res.ContentLength = 0
	case length < 0:
		return nil
	case length > 0:
		res.Body = &lengthBody{in, length}
	}
	_, _ = in.Discard(end + 4) // it is in the buffer
	return res
}

// cutStatus cuts the status line off; the code is 0 if it is not a plain one.
func cutStatus(head string) (status string, code int, rest string) {
	const proto = "HTTP/1.1 "
	line, rest, _ := strings.Cut(head, "\r\n")
	status, ok := strings.CutPrefix(line, proto)
	if !ok || len(status) < len("200 ") || status[3] != ' ' || !plainValue(status) {
		return "", 0, ""
	}
	for _, digit := range []byte(status[:3]) {
		if digit < '0' || digit > '9' {
			return "", 0, ""
		}
		code = code*10 + int(digit-'0')
	}
	return status, code, rest
}

// plainHeader parses header lines, each with its line end. length is the
// Content-Length, -1 if there is none.
func plainHeader(lines string) (header http.Header, length int64, plain bool) {
	header, length = make(http.Header, plainHeaders), -1
	values := make([]string, plainHeaders) // one allocation for most
	for len(lines) > 0 {
		line, rest, _ := strings.Cut(lines, "\r\n")
		lines = rest
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !found || !plainName(name) || !plainValue(value) {
			return nil, 0, false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Content-Length":
			if length >= 0 {
				return nil, 0, false
			}
			if length = plainLength(value); length < 0 {
				return nil, 0, false
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return nil, 0, false
			}
		case "Transfer-Encoding", "Trailer", "Upgrade", "Pragma":
			return nil, 0, false
		}
		if before, ok := header[name]; ok {
			header[name] = append(before, value)
			continue
		}
		if len(values) == 0 {
			values = make([]string, plainHeaders)
		}
		values[0] = value
		header[name], values = values[:1:1], values[1:]
	}
	return header, length, true
}

// plainName reports whether a header's name is a token (RFC 9110, 5.6.2).
func plainName(name string) bool {
	for i := range len(name) {
		if !token[name[i]] {
			return false
		}
	}
	return name != ""
}

// plainValue reports whether a value has no control character.
func plainValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// plainLength returns a Content-Length, -1 for what is not a plain number.
func plainLength(value string) (length int64) {
	if value == "" || len(value) > 18 {
		return -1
	}
	for _, digit := range []byte(value) {
		if digit < '0' || digit > '9' {
			return -1
		}
		length = length*10 + int64(digit-'0')
	}
	return length
}

// token are the bytes of a token.
var token = func() (set [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		set[c] = true
	}
	return set
}()

// lengthBody is a body of so many bytes.
type lengthBody struct {
	in   *bufio.Reader
	left int64
}

func (b *lengthBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF // now, or the reader would have to come again
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *lengthBody) Close() error { return nil }
