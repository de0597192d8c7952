package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Thing is one of what lives on an instance and would be missed, as a census hook says
// it to the agent.
type Thing struct {
	Kind  string   `json:"kind"` // in the singular: "database"
	Name  string   `json:"name"`
	Owner string   `json:"owner,omitempty"`
	Apps  []string `json:"apps,omitempty"`
}

// maxThings is the number of things that a census names.
const maxThings = 200

// WriteCensus says what lives on an instance as a census hook does: a line for each
// thing, and their number in the last one.
func WriteCensus(w io.Writer, things []Thing) error {
	var out bytes.Buffer
	for _, t := range things[:min(len(things), maxThings)] {
		line, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("cannot write the census: %w", err)
		}
		out.Write(append(line, '\n'))
	}
	fmt.Fprintf(&out, "{\"total\":%d}\n", len(things))
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("cannot write the census: %w", err)
	}
	return nil
}
