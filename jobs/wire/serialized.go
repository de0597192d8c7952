package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// Operations of a node that are about files with what is in an instance. A snapshot is
// made into a file by a job and read piece by piece; a file is written piece by piece and
// takes the place of what is in an instance by a job.
const (
	ServiceSerialize   = "create_serialized"
	ServiceReadPiece   = "read_serialized"
	ServiceBeginUpload = "begin_upload"
	ServiceWritePiece  = "write_upload"
	ServiceImportFile  = "import_upload"
)

// MaxSerializedPiece bounds the bytes of a file that one message carries: in base 64 they
// are fewer than the smallest message that a bus may be limited to.
const MaxSerializedPiece = 512 << 10

// SerializedHead is the first line of a file: what the rest of it is.
type SerializedHead struct {
	Service string `json:"service"`
	Version string `json:"version"` // of the server, for people
	Size    int64  `json:"size"`    // bytes after the line
	SHA256  string `json:"sha256"`  // of them
}

// MaxSerializedHead bounds the first line, in bytes.
const MaxSerializedHead = 1024

var (
	serializedService = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	serializedVersion = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,32}$`)
)

// Line returns the head as the first line of a file.
func (h SerializedHead) Line() ([]byte, error) {
	line, err := json.Marshal(h)
	return append(line, '\n'), err
}

// ParseSerializedHead reads the first line of a file.
func ParseSerializedHead(line []byte) (SerializedHead, error) {
	if len(line) > MaxSerializedHead || !bytes.HasSuffix(line, []byte("\n")) || !bytes.HasPrefix(line, []byte("{")) {
		return SerializedHead{}, errors.New("it is no file of vmc export-service: its first line does not say what it is")
	}
	h, err := parseService[SerializedHead](line, "the first line of the file")
	if err != nil {
		return SerializedHead{}, err
	}
	return h, nil
}

func (h SerializedHead) check() error {
	sum, err := hex.DecodeString(h.SHA256)
	switch {
	case !serializedService.MatchString(h.Service) || !serializedVersion.MatchString(h.Version):
		return errors.New("its service or version cannot be one")
	case h.Size < 0:
		return errors.New("its size is negative")
	case err != nil || len(sum) != 32:
		return errors.New("its sha256 is none")
	}
	return nil
}

// SerializedRequest asks for one of the operations. Which fields it needs depends on the
// operation; those that are there are checked in any case.
type SerializedRequest struct {
	InstanceID string          `json:"instance_id"`
	SnapshotID string          `json:"snapshot_id,omitempty"`
	UploadID   string          `json:"upload_id,omitempty"`
	Offset     int64           `json:"offset,omitempty"` // of a piece, within the bytes after the head
	Data       []byte          `json:"data,omitempty"`   // of a piece that is written
	Head       *SerializedHead `json:"head,omitempty"`   // of a file that will be written
}

// SerializedAnswer ends an operation.
type SerializedAnswer struct {
	Success  bool            `json:"success"`
	Error    *ServiceFailure `json:"error,omitempty"`
	Job      *ServiceJob     `json:"job,omitempty"`
	UploadID string          `json:"upload_id,omitempty"`
	Head     *SerializedHead `json:"head,omitempty"` // of a file that is read
	Data     []byte          `json:"data,omitempty"` // at most MaxSerializedPiece; none: its end
}

// ParseSerializedRequest decodes a request that is about a file.
func ParseSerializedRequest(data []byte) (SerializedRequest, error) {
	return parseService[SerializedRequest](data, "a request about a service's file")
}

func (r SerializedRequest) check() error {
	switch {
	case !ValidServiceInstance(r.InstanceID):
		return errors.New("its instance_id cannot be an instance's")
	case slices.ContainsFunc([]string{r.SnapshotID, r.UploadID}, func(id string) bool { return id != "" && !ValidServiceInstance(id) }):
		return errors.New("its snapshot_id or upload_id cannot be one")
	case r.Offset < 0:
		return errors.New("its offset is negative")
	case len(r.Data) > MaxSerializedPiece:
		return fmt.Errorf("its piece has more than %d bytes", MaxSerializedPiece)
	case r.Head != nil:
		return r.Head.check()
	}
	return nil
}

// ParseSerializedAnswer decodes a node's answer. A failure is read without an error.
func ParseSerializedAnswer(data []byte) (SerializedAnswer, error) {
	return parseService[SerializedAnswer](data, "a node's answer about a service's file")
}

func (a SerializedAnswer) check() error {
	switch {
	case !a.Success && a.Error == nil:
		return errors.New("it is neither a success nor an error")
	case len(a.Data) > MaxSerializedPiece:
		return fmt.Errorf("its piece has more than %d bytes", MaxSerializedPiece)
	case a.UploadID != "" && !ValidServiceInstance(a.UploadID):
		return errors.New("its upload_id cannot be one")
	case a.Head != nil:
		return a.Head.check()
	}
	return nil
}
