package views

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/clusterworks/deploy/agent/api"
)

// ErrandOutput shows what errands say: of one, byte for byte; of several, line by
// line with their instance; for machines, as JSON.
type ErrandOutput struct {
	out, errOut   io.Writer
	json, several bool
	color         bool
	rest          map[lineKey][]byte // unfinished lines
}

type lineKey struct {
	instance string
	stream   api.Stream
}

// NewErrandOutput shows on out and errOut.
func NewErrandOutput(out, errOut io.Writer, asJSON, several, color bool) *ErrandOutput {
	return &ErrandOutput{out: out, errOut: errOut, json: asJSON, several: several, color: color, rest: map[lineKey][]byte{}}
}

// Write shows a piece. A reader that went away is no reason to stop an errand.
func (o *ErrandOutput) Write(instance string, piece api.Output) {
	w := o.out
	if piece.Stream == api.Stderr {
		w = o.errOut
	}
	switch {
	case o.json:
		_ = json.NewEncoder(o.out).Encode(map[string]string{"instance": instance, "stream": string(piece.Stream), "text": string(piece.Data)})
	case !o.several:
		_, _ = w.Write(piece.Data)
	default:
		key := lineKey{instance, piece.Stream}
		data := append(o.rest[key], piece.Data...)
		for {
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				break
			}
			o.line(w, instance, data[:i])
			data = data[i+1:]
		}
		o.rest[key] = data
	}
}

func (o *ErrandOutput) line(w io.Writer, instance string, text []byte) {
	fmt.Fprintf(w, "%s %s\n", paint(o.color, faint, safe(instance)+" |"), safe(string(text)))
}

// Close shows lines that were not finished.
func (o *ErrandOutput) Close() {
	for key, text := range o.rest {
		if len(text) > 0 {
			w := o.out
			if key.stream == api.Stderr {
				w = o.errOut
			}
			o.line(w, key.instance, text)
		}
	}
	clear(o.rest)
}
