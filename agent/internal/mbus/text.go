package mbus

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// edit replaces the bytes from start to before end.
type edit struct {
	start, end int
	text       string
}

// apply makes the edits, which do not overlap.
func apply(source []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out bytes.Buffer
	done := 0
	for _, e := range edits {
		out.Write(source[done:e.start])
		out.WriteString(e.text)
		done = e.end
	}
	out.Write(source[done:])
	return out.Bytes()
}

// replace returns what must be edited in a text whose URIs are at the given places.
// Where there will be as many as before, what is between them stays.
func (v *value) replace(text string, places []uri) []edit {
	var out []edit
	if len(v.want) == len(v.uris) {
		for i, p := range places {
			if v.want[i].text != v.uris[i].text {
				out = append(out, edit{p.start, p.end, v.want[i].text})
			}
		}
		return out
	}
	var all strings.Builder
	for i, u := range v.want {
		if i > 0 {
			all.WriteString(text[places[0].end:places[1].start])
		}
		all.WriteString(u.text)
	}
	return []edit{{places[0].start, places[len(places)-1].end, all.String()}}
}

// newValue is the value with the wanted URIs.
func (v *value) newValue() string {
	return string(apply([]byte(v.node.Value), v.replace(v.node.Value, v.uris)))
}

// legible is a source as the parser can read it, which does not know all escapes
// of JSON: an escaped slash, and halves of characters beyond 16 bits. They lose
// their backslash; removed are the offsets in the result before which one stood.
func legible(source []byte) (out []byte, removed []int) {
	if !bytes.ContainsRune(source, '\\') || !json.Valid(source) {
		return source, nil
	}
	for i := 0; i < len(source); i++ {
		if source[i] == '\\' { // of a string, so something follows
			next := source[i+1]
			half := next == 'u' && source[i+2]|0x20 == 'd' && source[i+3] >= '8'
			if next == '/' || half {
				removed = append(removed, len(out))
			} else {
				out = append(out, source[i])
			}
			i++
		}
		out = append(out, source[i])
	}
	return out, removed
}

// text is a legible source with the offsets of its lines.
type text struct {
	source  string
	lines   []int
	removed []int
}

// blanks and breaks are white space as YAML 1.1 has it.
const (
	breaks = "\n\r\u0085\u2028\u2029"
	blanks = " \t" + breaks
)

func newText(source []byte) text {
	source, removed := legible(source)
	t := text{source: string(source), removed: removed}
	start := 0
	if strings.HasPrefix(t.source, "\ufeff") {
		start = len("\ufeff") // the parser takes it for no part of the line
	}
	t.lines = []int{start}
	for i := start; i < len(t.source); {
		r, size := utf8.DecodeRuneInString(t.source[i:])
		i += size
		if strings.ContainsRune(breaks, r) && (r != '\r' || !strings.HasPrefix(t.source[i:], "\n")) {
			t.lines = append(t.lines, i)
		}
	}
	return t
}

// original is the offset that a legible source's offset has in the source. A
// backslash belongs to what follows it.
func (t text) original(at int) int {
	n, _ := slices.BinarySearch(t.removed, at)
	return at + n
}

// offset is that of a line and column, which both count from 1, the column in
// characters.
func (t text) offset(line, column int) (int, bool) {
	if line < 1 || line > len(t.lines) {
		return 0, false
	}
	at := t.lines[line-1]
	for range column - 1 {
		if at >= len(t.source) {
			return 0, false
		}
		_, size := utf8.DecodeRuneInString(t.source[at:])
		at += size
	}
	return at, true
}

// skip returns the offset behind all characters of a set.
func (t text) skip(at int, set string) int {
	return len(t.source) - len(strings.TrimLeft(t.source[at:], set))
}

// find returns the offset of the next character of a set, or the end.
func (t text) find(at int, set string) int {
	if i := strings.IndexAny(t.source[at:], set); i >= 0 {
		return at + i
	}
	return len(t.source)
}

func (t text) at(at int) byte {
	if at < len(t.source) {
		return t.source[at]
	}
	return 0
}

var errNotFound = errors.New("cannot find the value's place in the file; write it in a simpler way")

// edits are those of the source that give a value its wanted URIs.
func (t text) edits(v *value, wanted string) ([]edit, error) {
	out, err := t.legibleEdits(v, wanted)
	for i, e := range out {
		out[i].start, out[i].end = t.original(e.start), t.original(e.end)
	}
	return out, err
}

func (t text) legibleEdits(v *value, wanted string) ([]edit, error) {
	at, ok := t.offset(v.node.Line, v.node.Column)
	if !ok {
		return nil, errNotFound
	}
	// An anchor and a tag stand before the value, and comments may.
	for strings.IndexByte("&!#", t.at(at)) >= 0 && at < len(t.source) {
		set := blanks
		if t.at(at) == '#' {
			set = breaks
		}
		at = t.skip(t.find(at, set), blanks)
	}
	quote := t.at(at)
	switch quote {
	case '"', '\'':
		at++
	case '|', '>':
		at = t.find(at, breaks)
	}
	if places, ok := t.places(v, at); ok {
		return v.replace(t.source, places), nil
	}
	if quote != '"' && quote != '\'' {
		return nil, errNotFound
	}
	// Something is escaped.
	end := at
	for t.at(end) != quote || quote == '\'' && strings.HasPrefix(t.source[end:], "''") {
		if t.at(end) == quote || quote == '"' && t.at(end) == '\\' {
			end++
		}
		if end++; end >= len(t.source) {
			return nil, errNotFound
		}
	}
	if strings.ContainsAny(wanted, "\"'\\\t"+breaks) {
		return nil, errNotFound
	}
	return []edit{{at, end, wanted}}, nil
}

// places finds the URIs of a value where they stand literally, the first at an
// offset or behind white space.
func (t text) places(v *value, at int) ([]uri, bool) {
	var out []uri
	set := blanks
	for _, u := range v.uris {
		at = t.skip(at, set)
		if !strings.HasPrefix(t.source[at:], u.text) {
			return nil, false
		}
		out = append(out, uri{start: at, end: at + len(u.text)})
		at += len(u.text)
		set = blanks + ","
	}
	return out, true
}
