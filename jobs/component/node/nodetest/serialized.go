package nodetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Serialized asks for an operation that is about a file and returns the answer.
func (f *Fixture) Serialized(operation string, request wire.SerializedRequest) wire.SerializedAnswer {
	f.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		f.Fatal(err)
	}
	m, err := f.conn.Request(wire.ServiceNodeSubject(f.prefix, operation, f.ID), body, deadline)
	if err != nil {
		f.Fatal(err)
	}
	a, err := wire.ParseSerializedAnswer(m.Data)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

// Export makes a snapshot of an instance into a file and returns what is in it, without
// its first line.
func (f *Fixture) Export(instance wire.Credentials) []byte {
	f.Helper()
	id := f.Snapshot(instance)
	a := f.Serialized(wire.ServiceSerialize, wire.SerializedRequest{InstanceID: instance.Name(), SnapshotID: id})
	if !a.Success {
		f.Fatalf("an export: %v", a.Error)
	}
	if j := f.Ended(instance.Name(), a.Job.ID); j.Status != wire.JobCompleted {
		f.Fatalf("an export: %+v, %+v", j, j.Error)
	}
	var all bytes.Buffer
	for {
		piece := f.Serialized(wire.ServiceReadPiece, wire.SerializedRequest{InstanceID: instance.Name(), SnapshotID: id, Offset: int64(all.Len())})
		if !piece.Success {
			f.Fatalf("a piece: %v", piece.Error)
		}
		all.Write(piece.Data)
		if len(piece.Data) == 0 {
			sum := sha256.Sum256(all.Bytes())
			if h := piece.Head; h.Size != int64(all.Len()) || h.SHA256 != hex.EncodeToString(sum[:]) || h.Service != f.define().Name {
				f.Fatalf("%d bytes, and the head is %+v", all.Len(), h)
			}
			return all.Bytes()
		}
	}
}

// Import replaces what is in an instance by a file and returns how the job ended.
func (f *Fixture) Import(instance wire.Credentials, file []byte) wire.ServiceJob {
	f.Helper()
	sum := sha256.Sum256(file)
	head := wire.SerializedHead{Service: f.define().Name, Version: "1", Size: int64(len(file)), SHA256: hex.EncodeToString(sum[:])}
	a := f.Serialized(wire.ServiceBeginUpload, wire.SerializedRequest{InstanceID: instance.Name(), Head: &head})
	id := a.UploadID
	for offset := 0; a.Success && offset < len(file); {
		piece := file[offset:min(len(file), offset+wire.MaxSerializedPiece)]
		a = f.Serialized(wire.ServiceWritePiece, wire.SerializedRequest{InstanceID: instance.Name(), UploadID: id, Offset: int64(offset), Data: piece})
		offset += len(piece)
	}
	if a.Success {
		a = f.Serialized(wire.ServiceImportFile, wire.SerializedRequest{InstanceID: instance.Name(), UploadID: id})
	}
	if !a.Success {
		f.Fatalf("an upload: %v", a.Error)
	}
	return f.Ended(instance.Name(), a.Job.ID)
}

// Imported is Import that must succeed.
func (f *Fixture) Imported(instance wire.Credentials, file []byte) {
	f.Helper()
	if j := f.Import(instance, file); j.Status != wire.JobCompleted {
		f.Fatalf("an import: %+v, %+v", j, j.Error)
	}
}
