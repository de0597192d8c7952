package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of what a manifest may unfold to: aliases can make much of little.
const (
	maxBytes = 1 << 20
	maxNodes = 50_000
	maxDepth = 100
)

// kind describes what a node is.
type kind int

const (
	null kind = iota
	scalar
	list
	mapping
)

// node is a value of a document, its anchors and merge keys resolved. A scalar is
// the text as it is written: 1.10 stays 1.10, 0123 stays 0123.
type node struct {
	kind   kind
	text   string  // of a scalar
	items  []*node // of a list
	fields []field // of a mapping, in their order
	at     string  // where it stands, "line:column"
	// anchored reports whether an anchor is in it, so that others refer to it.
	anchored bool
}

type field struct {
	name  string
	at    string
	value *node
}

// get returns a mapping's value, nil if it has none of that name.
func (n *node) get(name string) *node {
	for _, f := range n.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// errorf returns an error with the node's position.
func (n *node) errorf(format string, args ...any) error {
	return fmt.Errorf("[%s] "+format, append([]any{n.at}, args...)...)
}

// parse reads the one document of a text.
func parse(data []byte) (root *node, err error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(data), maxBytes)
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errors.New("it is written in UTF-16: save it as UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // which some editors put first
	// The YAML reader panics on some texts, such as a tag without a value.
	defer func() {
		if recover() != nil {
			root, err = nil, errors.New("it is not valid YAML")
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	r := &reader{anchors: map[string]ast.Node{}}
	root = &node{kind: null, at: "1:1"}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if _, ok := doc.Body.(*ast.DirectiveNode); ok {
			continue
		}
		read, err := r.read(doc.Body, 0)
		if err != nil {
			return nil, err
		}
		switch {
		case read.kind == null:
		case root.kind != null:
			return nil, read.errorf("a second document begins here: a manifest is one")
		default:
			root = read
		}
	}
	return root, nil
}

// reader makes nodes of a syntax tree.
type reader struct {
	anchors map[string]ast.Node
	nodes   int
}

// position returns where a token stands.
func position(tk *token.Token) string {
	if tk == nil || tk.Position == nil {
		return "1:1"
	}
	return fmt.Sprintf("%d:%d", tk.Position.Line, tk.Position.Column)
}

func (r *reader) read(from ast.Node, depth int) (*node, error) {
	n := &node{at: "1:1"}
	if from == nil {
		return n, nil
	}
	n.at = position(from.GetToken())
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		return nil, n.errorf("this is too large, or refers to itself")
	}
	switch from := from.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		n.kind, n.text = scalar, from.Value
	case *ast.LiteralNode:
		n.kind, n.text = scalar, from.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		n.kind, n.text = scalar, strings.TrimSpace(from.GetToken().Value)
	case *ast.SequenceNode:
		n.kind = list
		for _, value := range from.Values {
			item, err := r.read(value, depth+1)
			if err != nil {
				return nil, err
			}
			n.items, n.anchored = append(n.items, item), n.anchored || item.anchored
		}
	case *ast.MappingNode:
		return n, r.readMapping(n, from.Values, depth)
	case *ast.MappingValueNode:
		return n, r.readMapping(n, []*ast.MappingValueNode{from}, depth)
	case *ast.AnchorNode:
		r.anchors[from.Name.GetToken().Value] = from.Value
		value, err := r.read(from.Value, depth+1)
		if err != nil {
			return nil, err
		}
		value.anchored = true
		return value, nil
	case *ast.AliasNode:
		name := from.Value.GetToken().Value
		target, ok := r.anchors[name]
		if !ok {
			return nil, n.errorf("there is no anchor &%s before this", name)
		}
		value, err := r.read(target, depth+1)
		if err != nil {
			return nil, err
		}
		value.anchored = false
		return value, nil
	case *ast.TagNode:
		switch tag := from.GetToken().Value; tag {
		case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp":
			value, err := r.read(from.Value, depth+1)
			if err == nil && tag == "!!str" && value.kind == null {
				value.kind = scalar
			}
			return value, err
		default:
			return nil, n.errorf("the tag %s is not known", tag)
		}
	default:
		return nil, n.errorf("this is nothing that a manifest can have")
	}
	return n, nil
}

// readMapping reads pairs into n. What is merged (<<) gives way to what stands
// there, wherever it stands.
func (r *reader) readMapping(n *node, pairs []*ast.MappingValueNode, depth int) error {
	n.kind = mapping
	if len(pairs) > 0 {
		n.at = position(pairs[0].Key.GetToken())
	}
	var merged []*node
	for _, pair := range pairs {
		value, err := r.read(pair.Value, depth+1)
		if err != nil {
			return err
		}
		at := position(pair.Key.GetToken())
		if pair.Key.IsMergeKey() {
			many := []*node{value}
			if value.kind == list {
				many = value.items
			}
			for _, one := range many {
				if one.kind != mapping {
					return value.errorf("<< merges maps only")
				}
			}
			merged = append(merged, many...)
			continue
		}
		key, err := r.read(pair.Key, depth+1)
		if err != nil {
			return err
		}
		if key.kind != scalar {
			return fmt.Errorf("[%s] a key is a word", at)
		}
		if n.get(key.text) != nil {
			return fmt.Errorf("[%s] %q is given twice", at, key.text)
		}
		n.fields = append(n.fields, field{key.text, at, value})
		n.anchored = n.anchored || value.anchored || key.anchored
	}
	for _, from := range merged {
		for _, f := range from.fields {
			if r.nodes++; r.nodes > maxNodes {
				return n.errorf("this is too large")
			}
			if n.get(f.name) == nil {
				n.fields = append(n.fields, f)
			}
		}
	}
	return nil
}
