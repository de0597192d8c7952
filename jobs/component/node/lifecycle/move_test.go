package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestSnapshotsMove: an instance's snapshots go to another node through a folder, again if
// it is asked twice; a damaged one stays behind, and one damaged on the way stops the move.
func TestSnapshotsMove(t *testing.T) {
	t.Parallel()
	s := &shelf{data: map[string]string{"a": "data"}}
	node := func(folder string) *Keeper {
		return open(t, Config{Folder: folder, Max: 5, MaxBytes: 1 << 20, TimeLimit: time.Hour}, s, t.TempDir())
	}
	key, _, _ := s.instances().Key("a")
	from, to := node(t.TempDir()), node(t.TempDir())
	shared := Packed(t.TempDir())
	if err := errors.Join(Pack(t.Context(), from, "a", shared), Unpack(t.Context(), to, "a", key, shared)); err != nil {
		t.Fatalf("an instance without snapshots: %v", err)
	}
	stop := run(t, from)
	ids := []string{}
	for range 3 {
		j, err := from.Create("a", "")
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); j.CompletedAt == nil; j, err = from.Job("a", j.ID) {
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%+v, %v", j, err)
			}
		}
		ids = append(ids, j.Snapshot.ID)
	}
	stop()
	damage := func(folder, id string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, "a", id+dataEnding), []byte("DATA"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(from.config.Folder, ids[1])
	if err := Pack(t.Context(), from, "a", shared); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Unpack(t.Context(), to, "a", key, shared); err != nil {
			t.Fatal(err)
		}
		list := to.mustList(t, "a")
		if len(list) != 2 || list[0].ID != ids[0] || list[1].ID != ids[2] {
			t.Fatalf("the other node has %+v, want %v without the second", list, ids)
		}
	}

	none := node("")
	var failure *wire.ServiceFailure
	if err := Unpack(t.Context(), none, "a", key, shared); !errors.As(err, &failure) {
		t.Errorf("a node without snapshots_dir takes an instance with two: %v", err)
	}
	if err := Unpack(t.Context(), to, "a", []byte("another key"), shared); !errors.Is(err, errTampered) {
		t.Errorf("with another instance's key: %v", err)
	}
	if list := to.mustList(t, "a"); len(list) != 2 {
		t.Errorf("what was refused has taken snapshots away: %+v", list)
	}
	damage(shared, ids[0])
	if err := Unpack(t.Context(), to, "a", key, shared); !errors.Is(err, errTampered) {
		t.Errorf("damaged on the way: %v", err)
	}
}
