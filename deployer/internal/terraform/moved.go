package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// movedBlocks returns the moved blocks of the root module for an input: one for each
// resource that the engine's state has of an instance whose group had another name.
// It is empty once the engine's state has the new names.
func movedBlocks(dir string, in Input) ([]map[string]string, error) {
	if len(in.Moves) == 0 {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, StateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was made yet
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the engine's state: %w", err)
	}
	var state struct {
		Resources []struct {
			Module, Mode, Type, Name string
			Instances                []struct {
				Key any `json:"index_key"`
			}
		}
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("cannot read the engine's state: %w", err)
	}
	var out []map[string]string
	for _, r := range state.Resources {
		if r.Mode != "managed" || !strings.HasPrefix(r.Module+".", "module."+moduleName+".") {
			continue
		}
		var keys []string
		for _, i := range r.Instances {
			if key, ok := i.Key.(string); ok {
				keys = append(keys, key)
			}
		}
		for _, key := range keys {
			group, rest, _ := strings.Cut(key, "/")
			to, moved := in.Moves[group]
			if now := to + "/" + rest; moved && rest != "" && !slices.Contains(keys, now) {
				address := func(key string) string {
					return fmt.Sprintf("%s.%s.%s[%s]", r.Module, r.Type, r.Name, strconv.Quote(key))
				}
				out = append(out, map[string]string{"from": address(key), "to": address(now)})
			}
		}
	}
	return out, nil
}
