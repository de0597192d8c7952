package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// ID is an identifier that the older dialect sends as a number and the later
// one as a string, most of all an app's. It compares as a string everywhere and
// is sent as one.
type ID string

// UnmarshalJSON takes a string, a number or null (the empty ID).
func (id *ID) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil {
		return fmt.Errorf("cannot read an id: %w", err)
	}
	*id = ID(s)
	return nil
}

// Tags are free labels, string to string. Values of other scalar types are read
// as their text; null keys' and values' entries are dropped, as the original did.
type Tags map[string]string

// UnmarshalJSON takes an object of scalars, or null.
func (t *Tags) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("cannot read tags: %w", err)
	}
	*t = nil
	for key, value := range raw {
		if bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
			continue
		}
		s, err := scalar(value)
		if err != nil {
			return fmt.Errorf("cannot read tag %q: %w", key, err)
		}
		if *t == nil {
			*t = Tags{}
		}
		(*t)[key] = s
	}
	return nil
}

// scalar reads a JSON string, number or boolean as text, null as "".
func scalar(b []byte) (string, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", fmt.Errorf("no value")
	}
	switch b[0] {
	case '"':
		var s string
		err := json.Unmarshal(b, &s)
		return s, err
	case '{', '[':
		return "", fmt.Errorf("want a string or a number, have %.20s", b)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return "", err
	}
	if v == nil {
		return "", nil
	}
	return string(b), nil
}
