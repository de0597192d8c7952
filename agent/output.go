package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/clusterworks/deploy/agent/api"
)

const (
	// outputPiece is the number of bytes, as said, that one line of the file holds at most.
	outputPiece = 32 << 10
	// outputReply is the part of the file, in bytes, that one reply has at most. The bus carries
	// 1 MiB at a time.
	outputReply = 384 << 10
)

// output describes what the hooks of one operation say: a file of lines, each an
// api.Output. A position is an offset in it. It is not synced: a crash of the
// agent alone loses none of it.
type output struct {
	path string
	file *os.File // while the operation runs and has said something
	size int64    // of the file, whole lines
	said int64    // bytes
	gone bool     // not kept any longer
}

// measure finds out what an earlier agent has left.
func (o *output) measure() {
	data, err := os.ReadFile(o.path)
	if err != nil {
		return // nothing was said
	}
	o.size = int64(bytes.LastIndexByte(data, '\n') + 1)
}

// write keeps what was said, up to api.MaxOutput.
func (o *output) write(stream api.Stream, data []byte) {
	if o.said >= api.MaxOutput {
		return
	}
	if over := o.said + int64(len(data)) - api.MaxOutput; over > 0 {
		data = data[:int64(len(data))-over]
	}
	o.said += int64(len(data))
	for len(data) > 0 {
		n := min(len(data), outputPiece)
		o.line(api.Output{Stream: stream, Data: data[:n]})
		data = data[n:]
	}
	if o.said == api.MaxOutput {
		o.line(api.Output{Stream: api.Stderr, Data: fmt.Appendf(nil, "\n[more than %d MiB: the rest is in the log on the instance]\n", api.MaxOutput>>20)})
	}
}

// line adds one line. What a full disk does not take is in the hook's log
// neither, which says so.
func (o *output) line(piece api.Output) {
	if o.file == nil {
		f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return
		}
		o.file = f
	}
	line, err := json.Marshal(piece)
	if err != nil {
		return
	}
	if _, err := o.file.WriteAt(append(line, '\n'), o.size); err == nil {
		o.size += int64(len(line)) + 1
	}
}

// read gives what was said from a position on, and the position after it.
func (o *output) read(from int64) ([]api.Output, int64, error) {
	wrong := &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot read the output from %d: not a position that was given", from)}
	if from < 0 || from > o.size {
		return nil, 0, wrong
	}
	if from == o.size || o.gone {
		return nil, from, nil
	}
	f, err := os.Open(o.path)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the output: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, from, min(o.size-from, outputReply)))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the output: %w", err)
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var pieces []api.Output
	for line := range bytes.Lines(data) {
		var piece api.Output
		if json.Unmarshal(line, &piece) != nil {
			return nil, 0, wrong
		}
		pieces = append(pieces, piece)
	}
	return pieces, from + int64(len(data)), nil
}

func (o *output) close() {
	if o.file != nil {
		_ = o.file.Close()
		o.file = nil
	}
}

func (o *output) remove() {
	o.gone = true
	_ = os.Remove(o.path) // if it stays, it is overwritten or removed with the agent
}
