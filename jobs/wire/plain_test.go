package wire

import (
	"encoding/json"
	"reflect"
	"testing"
)

// plainRegistrations are messages, and whether plainRegistration reads them.
var plainRegistrations = map[string]bool{
	`{}`: true,
	` { "host" : "10.0.0.1" , "port" : 80 , "uris" : [ "a.test" , "b.test" ] } ` + "\n":                                                                      true,
	`{"dea":"d","app":"1","app_name":"shop","host":"h","port":1,"uris":[],"tags":{},"private_instance_id":"i","private_instance_index":"0","front_key":"k"}`: true,
	`{"tags":{"component":"dea-1","x":""},"stale_threshold_in_seconds":60,"port":999999999}`:                                                                 true,
	`{"app":1,"private_instance_index": 12 }`: true,
	`{"private_instance_index":0}`:            true,
	`{"private_instance_index":01}`:           false,
	`{"private_instance_index":1.0}`:          false,
	`{"private_instance_index":true}`:         false,
	`{"app":null}`:                            false,
	`{"uris":null}`:                           false,
	`{"uris":["a",]}`:                         false,
	`{"host":"a","host":"b"}`:                 false,
	`{"Host":"a"}`:                            false,
	`{"tags":{"a":"b","a":"c"}}`:              false,
	`{"tags":{"a":1}}`:                        false,
	`{"tags":null}`:                           false,
	`{"host":"\\u0041"}`:                      false,
	"{\"host\":\"\xff\"}":                     false,
	`{"host":"\u00e4"}`:                       false,
	`{"port":01}`:                             false,
	`{"port":1.5}`:                            false,
	`{"port":1e3}`:                            false,
	`{"port":-1}`:                             false,
	`{"port":12345678901}`:                    false,
	`{"port":}`:                               false,
	`{"other":"x"}`:                           false,
	`{"host":"a"} x`:                          false,
	`{"host":"a"`:                             false,
	`{"host":"a",}`:                           false,
	`["host"]`:                                false,
	``:                                        false,
}

// TestPlainRegistrations says which messages are read without encoding/json, and
// that they mean the same.
func TestPlainRegistrations(t *testing.T) {
	for text, want := range plainRegistrations {
		if got := comparePlain(t, text); got != want {
			t.Errorf("%s: read %v, want %v", text, got, want)
		}
	}
}

// FuzzPlainRegistration does so for messages of any kind.
func FuzzPlainRegistration(f *testing.F) {
	for text := range plainRegistrations {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { comparePlain(t, text) })
}

// comparePlain holds plainRegistration against encoding/json, and reports whether it
// could read the text.
func comparePlain(t *testing.T, text string) bool {
	t.Helper()
	var got, want Registration
	if !plainRegistration([]byte(text), &got) {
		return false
	}
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Errorf("%s: encoding/json refuses it: %v", text, err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", text, got, want)
	}
	return true
}
