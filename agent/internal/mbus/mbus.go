// Package mbus rewrites the message-bus URIs in the configuration files of a
// cloned image. It is pure: bytes in, bytes out.
//
// A file is YAML, of which JSON is a part, with one or more documents. The URIs
// are the values of the keys mbus, service_mbus and nats_uri, at any depth: one
// URI, several with commas between them, or a list. Only the URIs' bytes
// change; comments, quoting, line ends and layout stay, and the result is
// checked to read like the source in everything else.
package mbus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds a file. Configuration files of components have a few KiB.
const maxSize = 4 << 20

// keys are the names whose values are URIs of the bus: of all components, of
// those that have two buses, and of the stager. Ruby's files may have them as
// symbols (":mbus").
var keys = []string{"mbus", "service_mbus", "nats_uri"}

// Settings describe what the URIs shall say.
type Settings struct {
	// Servers are the bus's, as host:port; without a port that of the URI stays.
	Servers []string
	// User and Password, not encoded. If both are empty, those of the URI stay.
	User, Password string
	// Scheme, such as "nats"; if it is empty, that of the URI stays.
	Scheme string
	// Choice is the place where the distribution begins: an URI that stands alone and names
	// none of Servers yet gets number Choice of them, counted round. One that
	// names one of them keeps it.
	Choice int
}

// Change is one changed value.
type Change struct {
	Path string // of keys, "services.nodes[1].mbus"
	Line int    // from 1
	// Old and New are the value without passwords.
	Old, New string
}

func (c Change) String() string {
	return fmt.Sprintf("line %d, %s: %s -> %s", c.Line, c.Path, c.Old, c.New)
}

// Rewrite returns source with the URIs that s asks for, and what that changed:
// nothing, if they are there. A source that cannot be read, or in which the
// change cannot be made without touching anything else, is an error.
func Rewrite(source []byte, s Settings) ([]byte, []Change, error) {
	servers, err := s.servers()
	if err != nil {
		return nil, nil, err
	}
	switch {
	case len(source) > maxSize:
		return nil, nil, fmt.Errorf("it has %d bytes, more than the %d of any configuration file", len(source), maxSize)
	case !utf8.Valid(source):
		return nil, nil, errors.New("it is not UTF-8 text")
	}
	documents, err := parse(source)
	if err != nil {
		return nil, nil, err
	}
	f := finder{scalars: map[*yaml.Node]bool{}}
	for _, d := range documents {
		f.walk(d, "")
	}
	if f.err != nil {
		return nil, nil, f.err
	}

	text := newText(source)
	wanted := map[*yaml.Node]string{} // values after the change
	var edits []edit
	var changes []Change
	for _, form := range f.forms {
		s.assign(form, servers)
		for _, v := range form {
			value := v.newValue()
			if value == v.node.Value {
				continue
			}
			e, err := text.edits(v, value)
			if err != nil {
				return nil, nil, fmt.Errorf("line %d, %s: %w", v.node.Line, v.path, err)
			}
			edits = append(edits, e...)
			wanted[v.node] = value
			changes = append(changes, Change{Path: v.path, Line: v.node.Line, Old: redacted(v.uris), New: redacted(v.want)})
		}
	}
	if len(changes) == 0 {
		return slices.Clone(source), nil, nil
	}
	result := apply(source, edits)
	after, err := parse(result)
	if err == nil && !slices.EqualFunc(documents, after, func(a, b *yaml.Node) bool { return same(a, b, wanted) }) {
		err = errors.New("other bytes would change with it")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write the new URIs in the form of the old ones (line %d, %s): %w", changes[0].Line, changes[0].Path, err)
	}
	return result, changes, nil
}

// parse reads all documents. The parser's own faults are errors of the file.
func parse(source []byte) (documents []*yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			documents, err = nil, errors.New("it is not valid YAML")
		}
	}()
	source, _ = legible(source)
	d := yaml.NewDecoder(bytes.NewReader(source))
	for {
		var n yaml.Node
		switch err := d.Decode(&n); {
		case err == nil:
			documents = append(documents, &n)
		case errors.Is(err, io.EOF):
			return documents, nil
		default:
			return nil, fmt.Errorf("it is not valid YAML: %w", err)
		}
	}
}

// same tells whether two trees are equal but for the values in wanted.
func same(a, b *yaml.Node, wanted map[*yaml.Node]string) bool {
	value, changed := wanted[a]
	if !changed {
		value = a.Value
	}
	return a.Kind == b.Kind && b.Value == value && a.Tag == b.Tag && a.Anchor == b.Anchor && a.Style == b.Style &&
		a.HeadComment == b.HeadComment && a.LineComment == b.LineComment && a.FootComment == b.FootComment &&
		slices.EqualFunc(a.Content, b.Content, func(a, b *yaml.Node) bool { return same(a, b, wanted) })
}

// value is a scalar that holds URIs.
type value struct {
	node *yaml.Node
	path string
	uris []uri
	want []uri // in the end
}

// finder collects the values of the keys. A form is what stands at one key.
type finder struct {
	forms   [][]*value
	scalars map[*yaml.Node]bool // those found, and what was entered below a key
	err     error               // the first
}

// walk looks for the keys. What an alias stands for is found at its anchor.
func (f *finder) walk(n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.DocumentNode:
		for _, c := range n.Content {
			f.walk(c, path)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			f.walk(c, fmt.Sprintf("%s[%d]", path, i))
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, below := n.Content[i], n.Content[i+1]
			at := join(path, key.Value)
			if key.Kind != yaml.ScalarNode || !slices.Contains(keys, strings.TrimPrefix(key.Value, ":")) {
				f.walk(below, at)
				continue
			}
			var form []*value
			f.collect(below, at, &form, true)
			if len(form) > 0 {
				f.forms = append(f.forms, form)
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// collect takes all URIs below a key. strict: there must be nothing else, as in
// a list; a map may have more than URIs.
func (f *finder) collect(n *yaml.Node, path string, form *[]*value, strict bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if f.scalars[n] {
		return
	}
	f.scalars[n] = true
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			f.collect(c, fmt.Sprintf("%s[%d]", path, i), form, strict)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.collect(n.Content[i+1], join(path, n.Content[i].Value), form, false)
		}
	case yaml.ScalarNode:
		uris, err := split(n.Value)
		switch {
		case err == nil:
			*form = append(*form, &value{node: n, path: path, uris: uris})
		case strict && n.Tag != "!!null" && strings.TrimSpace(n.Value) != "" && f.err == nil:
			f.err = fmt.Errorf("line %d, %s: %w", n.Line, path, err)
		}
	}
}
