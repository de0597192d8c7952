package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Recovered describes what a work folder tells of the last run when nothing else is left.
type Recovered struct {
	Deployment Deployment
	Inputs     map[string]InstanceInput // by key, as in Input
	Disks      map[string]DiskInput
	Instances  map[string]Instance
}

// Recover reads from a work folder what its root module asked for and what the
// engine's state has of it.
func Recover(dir string) (*Recovered, error) {
	var module struct {
		Module map[string]struct {
			Deployment Deployment               `json:"deployment"`
			Instances  map[string]InstanceInput `json:"instances"`
			Disks      map[string]DiskInput     `json:"disks"`
		} `json:"module"`
	}
	if err := readUnescaped(filepath.Join(dir, rootFile), &module); err != nil {
		return nil, err
	}
	call, ok := module.Module[moduleName]
	if !ok || call.Deployment.ID == "" {
		return nil, fmt.Errorf("%s does not name its deployment", filepath.Join(dir, rootFile))
	}
	var engine struct {
		Outputs map[string]struct {
			Value json.RawMessage `json:"value"`
		} `json:"outputs"`
	}
	path := filepath.Join(dir, StateFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &engine); err != nil {
		return nil, fmt.Errorf("%s is cut off or not JSON: %w", path, err)
	}
	out := &Recovered{Deployment: call.Deployment, Inputs: call.Instances, Disks: call.Disks, Instances: map[string]Instance{}}
	value := engine.Outputs[outputName].Value
	if value == nil {
		return nil, fmt.Errorf("%s has no output %q", path, outputName)
	}
	if err := json.Unmarshal(value, &out.Instances); err != nil {
		return nil, fmt.Errorf("%s: output %q: %w", path, outputName, err)
	}
	for key := range out.Instances {
		if _, asked := out.Inputs[key]; !asked {
			return nil, fmt.Errorf("%s has a VM %s that the root module does not have: a run was ended between the two", path, key)
		}
	}
	return out, nil
}

// readUnescaped reads JSON that escape has written.
func readUnescaped(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	value, err := decodeJSON(data)
	if err == nil {
		data, err = json.Marshal(unescape(value))
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s is cut off or not JSON", path), err)
	}
	return nil
}

// unescape undoes escape.
func unescape(value any) any {
	switch v := value.(type) {
	case string:
		return strings.NewReplacer("$${", "${", "%%{", "%{").Replace(v)
	case []any:
		for i := range v {
			v[i] = unescape(v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, element := range v {
			out[unescape(key).(string)] = unescape(element)
		}
		return out
	}
	return value
}
