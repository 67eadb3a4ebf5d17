"""Statistics, pictures and the report: functions over stored routes. Needs no Detectron2."""
