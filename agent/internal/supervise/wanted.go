package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/damaged"
)

// wanted describes what the agent was last told of a process: the content of
// processes/<job>/<process>.json, which survives a reboot. The pinned spec is
// that of the last start; its ReloadDigest is what the process last loaded.
type wanted struct {
	Run        bool        `json:"run"`
	Process    api.Process `json:"process"`
	Generation string      `json:"generation"`
	// Log is the offset in the log at which the output of this start begins.
	Log logMark `json:"log,omitzero"`
}

// history describes what has happened since the process was told to start:
// history.json beside the shim's records.
type history struct {
	Restarts int       `json:"restarts"`
	Row      int       `json:"row"` // ends in a row, as in restarts
	LastExit *api.Exit `json:"last_exit,omitempty"`
	// Counted is the id of the last start whose end is in here, so that none is
	// counted twice.
	Counted string `json:"counted,omitempty"`
}

// names are the paths of a process.
type names struct{ dir, job, process string }

func (n names) wanted() string  { return filepath.Join(n.dir, "processes", n.job, n.process+".json") }
func (n names) shim() string    { return filepath.Join(n.dir, "run", n.job, n.process+".shim") }
func (n names) history() string { return filepath.Join(n.shim(), "history.json") }
func (n names) control() string { return filepath.Join(n.dir, "run", n.job, n.process+".sock") }
func (n names) log() string     { return filepath.Join(n.dir, "log", n.job, n.process+".log") }
func (n names) run() string     { return filepath.Join(n.dir, "run", n.job) }
func (n names) data() string    { return filepath.Join(n.dir, "data", n.job) }

// checkName keeps names inside their folder.
func checkName(name string) error {
	if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
		return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("%q cannot be the name of a job or process", name)}
	}
	return nil
}

// saveWanted notes what is wanted, to survive a power cut.
func saveWanted(n names, w wanted) error {
	data, err := json.MarshalIndent(w, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(n.wanted()), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(n.wanted(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot record what %s/%s should run: %w", n.job, n.process, err)
	}
	return nil
}

// loadWanted reads all processes that were ever told to start and not forgotten.
// What cannot be read is set aside: the active generation says it, too.
func loadWanted(dir string, note func(string)) (map[key]wanted, error) {
	files, err := filepath.Glob(filepath.Join(dir, "processes", "*", "*.json"))
	if err != nil {
		return nil, err
	}
	all := make(map[key]wanted)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read what should run: %w", err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if strings.HasPrefix(name, ".") {
			continue // a write that was cut off
		}
		var w wanted
		err = json.Unmarshal(data, &w)
		if err == nil && w.Process.Name != name {
			err = fmt.Errorf("it describes another process, %q", w.Process.Name)
		}
		if err != nil {
			text, err := damaged.SetAside(file, err)
			if err != nil {
				return nil, err
			}
			if note != nil {
				note(text)
			}
			continue
		}
		all[key{filepath.Base(filepath.Dir(file)), name}] = w
	}
	return all, nil
}

// saveHistory does not sync: a reboot ends the history anyway.
func saveHistory(n names, h history) error {
	data, err := json.Marshal(h)
	if err == nil {
		err = os.MkdirAll(n.shim(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(n.history()+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(n.history()+".new", n.history())
	}
	if err != nil {
		return fmt.Errorf("cannot note the history of %s/%s: %w", n.job, n.process, err)
	}
	return nil
}

// loadHistory reads the history; there is none after a reboot.
func loadHistory(n names) (history, error) {
	var h history
	data, err := os.ReadFile(n.history())
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err != nil {
		return history{}, fmt.Errorf("cannot read the history of %s/%s: %w", n.job, n.process, err)
	}
	return h, nil
}
